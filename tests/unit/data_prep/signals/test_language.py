"""Language identification: correct labels, the sampled part of the text, and errors for a broken model."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.languages import canonical
from data_prep.signals.language import (
    SAMPLE_CHARACTERS,
    FastTextModelError,
    LanguageIdentifier,
    installed_model_path,
    sample,
)

GOLD = Path(__file__).parents[5] / "shared" / "data" / "gold_langid_docs.jsonl.zst"
TEXTS = {
    "en": "The committee published its report on Tuesday, and most members agreed with the findings.",
    "de": "Der Ausschuss veröffentlichte am Dienstag seinen Bericht, und die meisten Mitglieder stimmten zu.",
    "fr": "Le comité a publié son rapport mardi et la plupart des membres ont approuvé ses conclusions.",
    "zh": "委员会星期二发表了报告，大多数成员同意其结论。",
    "th": "คณะกรรมการได้เผยแพร่รายงานเมื่อวันอังคาร และสมาชิกส่วนใหญ่เห็นด้วยกับข้อสรุป",
    "ru": "Комитет опубликовал свой доклад во вторник, и большинство членов согласились с выводами.",
}


PARTS = st.one_of(st.sampled_from([*" \n\t\r\0.,<>\u3000", "__label__en", "__label__", *TEXTS.values()]), st.text())


@pytest.fixture(scope="module")
def identifier() -> LanguageIdentifier:
    return LanguageIdentifier()


@pytest.fixture(scope="module")
def library() -> Any:
    return fasttext.load_model(str(installed_model_path()))


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(PARTS, max_size=12))
def test_fasttexts_own_library_agrees(identifier: LanguageIdentifier, library: Any, parts: list[str]) -> None:
    text = "".join(parts).encode("utf-8", "replace").decode()
    labels, probabilities = library.predict(sample(text).replace("\n", " "), k=1)
    found, probability = identifier.identify(text)
    assert probability == pytest.approx(min(float(probabilities[0]), 1.0), abs=1e-5)
    if probability > 0.01:  # of labels that are equally improbable, rounding names one
        assert found == canonical(labels[0].removeprefix("__label__"))


def test_a_tag_of_html_does_not_end_the_text(identifier: LanguageIdentifier) -> None:
    assert identifier.identify("<s> A title </s> " + TEXTS["ru"])[0] == "ru"


def test_documents_are_read_where_they_stand(identifier: LanguageIdentifier) -> None:
    texts = [*TEXTS.values(), "", TEXTS["ru"] * 100]
    data = "".join(texts).encode()
    offsets = np.cumsum([0, *(len(text.encode()) for text in texts)])
    found = identifier.identify_many(np.frombuffer(data, dtype=np.uint8), offsets)
    assert found == [identifier.identify(text) for text in texts]


@pytest.mark.skipif(not GOLD.is_file(), reason=f"no gold documents at {GOLD.name}")
def test_a_sample_is_no_worse_than_the_whole_document(identifier: LanguageIdentifier, library: Any) -> None:
    with pa.input_stream(str(GOLD), compression="zstd") as stream:
        documents = [json.loads(line) for line in io.TextIOWrapper(stream, encoding="utf-8")]
    right = sum(identifier.identify(document["text"])[0] == document["lang"] for document in documents)
    whole = sum(
        library.predict(document["text"].replace("\n", " "), k=1)[0][0] == f"__label__{document['lang']}"
        for document in documents
    )
    assert right >= whole


def test_a_model_of_another_kind_is_asked_through_the_library(tmp_path: Path) -> None:
    whole = bytearray(installed_model_path().read_bytes())
    word_grams_at = 8 + 5 * 4
    assert struct.unpack_from("<i", whole, word_grams_at) == (1,)
    struct.pack_into("<i", whole, word_grams_at, 2)
    path = tmp_path / "pairs.ftz"
    path.write_bytes(whole)
    assert LanguageIdentifier(path).identify(TEXTS["ru"])[0] == "ru"


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
    with pytest.raises(FastTextModelError, match=r"language\.model: there is no file .*nowhere\.ftz"):
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
    with pytest.raises(FastTextModelError, match=f"model.bin is not a complete fastText model .*{why}"):
        LanguageIdentifier(path)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.999])
def test_a_half_written_model_is_refused(tmp_path: Path, share: float) -> None:
    whole = installed_model_path().read_bytes()
    path = tmp_path / "half.ftz"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(FastTextModelError, match="in the middle of the model"):
        LanguageIdentifier(path)


def test_another_model_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "other.ftz"
    path.write_bytes(installed_model_path().read_bytes())
    assert LanguageIdentifier(path).identify(TEXTS["fr"])[0] == "fr"


def test_bytes_behind_the_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.ftz"
    path.write_bytes(installed_model_path().read_bytes() + b"x")
    with pytest.raises(FastTextModelError, match="1 bytes follow the model"):
        LanguageIdentifier(path)
