"""The reference of settings is current, and complete."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from data_prep.config import DataConfig
from foundation.configuration import Settings
from pretrain.config import TrainConfig
from tools import settings_reference
from tools.settings_reference import PAGES, Setting, page, settings_of

FOLDER = Path(__file__).parents[3] / "docs" / "reference"


class Inner(Settings):
    """Something inside."""

    share: float | None = Field(default=None, gt=0, le=1)
    """Share of the whole."""


class Example(Settings):
    """An example."""

    name: str
    """Name, in words|or not."""
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()
    """Several."""


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_current(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == page(*PAGES[name]), "run `python -m tools.settings_reference`"


@pytest.mark.parametrize("model", [DataConfig, TrainConfig])
def test_every_setting_has_a_meaning(model: type[Settings]) -> None:
    settings = [setting for _, _, group in settings_of(model) for setting in group]
    assert len(settings) > 40
    assert [setting.name for setting in settings if not setting.meaning] == []


def test_names_types_and_defaults() -> None:
    groups = {prefix: own for _, prefix, own in settings_of(Example)}
    assert groups == {
        "": [
            Setting("name", "text", "required", "Name, in words|or not."),
            Setting("many", "list of settings, see below", "[]", "Several."),
        ],
        "inner.": [Setting("inner.share", "number or null, > 0, ≤ 1", "left out", "Share of the whole.")],
        "many[].": [Setting("many[].share", "number or null, > 0, ≤ 1", "left out", "Share of the whole.")],
    }
    assert "| `name` | text | `required` | Name, in words\\|or not. |" in page(Example, "Title", "command")


def test_a_stale_page_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settings_reference, "FOLDER", tmp_path)
    assert settings_reference.main([]) == 0
    assert settings_reference.main(["--check"]) == 0
    (tmp_path / "train.md").write_text("old")
    assert settings_reference.main(["--check"]) == 1
    assert f"{tmp_path / 'train.md'}: not current" in capsys.readouterr().err
