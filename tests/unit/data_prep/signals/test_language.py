"""Language identification: what is right, what is sampled, and what a broken model says."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.signals.language import (
    SAMPLE_CHARACTERS,
    LanguageIdentifier,
    LanguageModelError,
    installed_model_path,
    sample,
)

TEXTS = {
    "en": "The committee published its report on Tuesday, and most members agreed with the findings.",
    "de": "Der Ausschuss veröffentlichte am Dienstag seinen Bericht, und die meisten Mitglieder stimmten zu.",
    "fr": "Le comité a publié son rapport mardi et la plupart des membres ont approuvé ses conclusions.",
    "zh": "委员会星期二发表了报告，大多数成员同意其结论。",
    "th": "คณะกรรมการได้เผยแพร่รายงานเมื่อวันอังคาร และสมาชิกส่วนใหญ่เห็นด้วยกับข้อสรุป",
    "ru": "Комитет опубликовал свой доклад во вторник, и большинство членов согласились с выводами.",
}


@pytest.fixture(scope="module")
def identifier() -> LanguageIdentifier:
    return LanguageIdentifier()


@pytest.mark.parametrize("language", TEXTS)
def test_names_the_language_by_its_iso_code(identifier: LanguageIdentifier, language: str) -> None:
    found, probability = identifier.identify(TEXTS[language])
    assert found == language
    assert 0.7 < probability <= 1


def test_line_feeds_do_not_end_the_text(identifier: LanguageIdentifier) -> None:
    one_line = identifier.identify(TEXTS["de"])
    assert identifier.identify(TEXTS["de"].replace(" ", "\n")) == one_line


@pytest.mark.parametrize("text", ["", "\n", "\x00", "12345", "。", "🙂" * 2000])
def test_any_text_has_an_answer(identifier: LanguageIdentifier, text: str) -> None:
    language, probability = identifier.identify(text)
    assert language
    assert 0 <= probability <= 1


def test_a_long_text_is_sampled_from_beginning_to_end() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(20_000))
    taken = sample(text)
    assert len(taken) == SAMPLE_CHARACTERS + 3
    assert taken.startswith(text[:250])
    assert taken.endswith(text[-250:])
    assert sample(text[:SAMPLE_CHARACTERS]) == text[:SAMPLE_CHARACTERS]


def test_a_title_in_another_language_does_not_decide(identifier: LanguageIdentifier) -> None:
    assert identifier.identify(TEXTS["en"] * 3 + "\n" + TEXTS["ru"] * 60)[0] == "ru"


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(LanguageModelError, match=r"language\.model: there is no file .*nowhere\.ftz"):
        LanguageIdentifier(tmp_path / "nowhere.ftz")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it has 0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it does not begin as one"),
        (b"\xba\x16\x4f\x2f\x63\x00\x00\x00", "its version is 99"),
    ],
)
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(LanguageModelError, match=f"model.bin is no whole fastText model .*{why}"):
        LanguageIdentifier(path)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.999])
def test_a_half_written_model_is_refused(tmp_path: Path, share: float) -> None:
    whole = installed_model_path().read_bytes()
    path = tmp_path / "half.ftz"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(LanguageModelError, match="in the middle of the model"):
        LanguageIdentifier(path)


def test_another_model_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "other.ftz"
    path.write_bytes(installed_model_path().read_bytes())
    assert LanguageIdentifier(path).identify(TEXTS["fr"])[0] == "fr"


def test_bytes_behind_the_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.ftz"
    path.write_bytes(installed_model_path().read_bytes() + b"x")
    with pytest.raises(LanguageModelError, match="1 bytes follow the model"):
        LanguageIdentifier(path)
