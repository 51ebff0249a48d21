"""What an imported model has beside its weights is passed on to runs that start from it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pretrain.checkpoint.layout import CheckpointError
from pretrain.checkpoint.origin import STARTED_FROM, origin_of
from tools.hugging_face.to_hf import _stopping_at


def reader(path: Path, index: dict[str, Any]) -> Any:
    return SimpleNamespace(path=path, index=index)


def test_files_of_use_are_kept_and_no_others(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    (folder / "additional_chat_templates").mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "additional_chat_templates/t.jinja"):
        (folder / name).write_text(name)
    imported = {"from": "x", "special_tokens": {"eos_token_id": 2}, "generation_config": {"temperature": 1.5}}
    origin = origin_of(reader(tmp_path, {"imported": imported}))
    assert origin is not None and origin["generation_config"] == {"temperature": 1.5}
    assert sorted(origin["files"]) == [
        "additional_chat_templates/t.jinja",
        "chat_template.jinja",
        "tokenizer_config.json",
    ]
    assert origin_of(reader(tmp_path, {STARTED_FROM: origin})) == origin
    assert origin_of(reader(tmp_path, {})) is None


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/x",
        "tokenizer.json",
        "additional_chat_templates/../../x.jinja",
        "additional_chat_templates/..",
        "../chat_template.jinja",
        "/chat_template.jinja",
        "/etc/tokenizer_config.json",
    ],
)
def test_a_checkpoint_cannot_have_other_files_written(tmp_path: Path, name: str) -> None:
    origin = {"special_tokens": {}, "generation_config": {}, "files": {name: "x"}}
    with pytest.raises(CheckpointError, match=r"is not one of tokenizer_config\.json"):
        origin_of(reader(tmp_path, {STARTED_FROM: origin}))


@pytest.mark.parametrize(("before", "after"), [(None, 9), (2, [2, 9]), ([2, 3], [2, 3, 9]), (9, 9), ([2, 9], [2, 9])])
def test_generation_stops_at_the_end_of_a_document_too(before: object, after: object) -> None:
    assert _stopping_at((9,), {"eos_token_id": before, "top_p": 0.9}) == {"eos_token_id": after, "top_p": 0.9}
    assert _stopping_at((), {"eos_token_id": before}) == {"eos_token_id": before}
