"""Every kernel that takes text, through its public entry, on texts made to break out of its arrays.

A row group is many texts in one buffer. Its bounds are moved by a few bytes, so that characters are cut in two. A
kernel's result for a document must equal its plain twin's, and its own for a copy of the document alone. With
ALTIPLANO_CHECKED_KERNELS=1 (as in `.ci/run`) any access outside an array is an error as well.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_prep.config import FingerprintConfig, TokenizerConfig
from data_prep.dedup.lines import hash_lines
from data_prep.signals import language, quality
from data_prep.signals.evaluations import EvaluationItems
from data_prep.signals.fasttext.kernel import sample_text
from data_prep.signals.fingerprints import fingerprint_text, shingle_set
from data_prep.signals.pii.candidates import find_candidates
from data_prep.signals.roots.statistics import measure_roots
from data_prep.signals.segmentation import mark_words
from data_prep.signals.text_statistics import STATISTICS, measure_text
from data_prep.signals.web_statistics import DATASET, PAPER, WEB_STATISTICS, c4_cuts, measure_web
from data_prep.tokenizer.byte_level import save_byte_level_bpe, train_byte_level_bpe
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.encoding.piece_encoder import PieceEncoder
from data_prep.tokenizer.encoding.token_bytes import TokenBytes
from data_prep.tokenizer.sentence_piece import save_sentencepiece_bpe, train_sentencepiece_bpe
from tests.unit.data_prep import plain_kernels as plain
from tests.unit.data_prep.signals.plain_segmentation import begins_of, category, is_unspaced
from tests.unit.data_prep.signals.roots.test_statistics import plain as plain_roots
from tests.unit.data_prep.signals.test_evaluations import plain_words
from tests.unit.data_prep.signals.test_text_statistics import plain_statistics
from tests.unit.data_prep.tokenizer.corpus import make_texts

Array = np.ndarray[Any, Any]

# one, two, three and four bytes a character; what each kernel looks for
_SCRIPTS = (
    "a",
    "The cat sat. ",
    "é",
    "снег ",
    "日",
    "本語。",
    "ที่",
    "ខ្មែរ",
    "カナ",
    "한국어 ",
    "𠀀",
    "😀",
    "\U0010ffff",
)
_SIGNS = (
    *" \n\t\r\0\u3000\u200b\x85",
    *("\n\n", "\r\n", "- x\n", "...", "…", "[1]", "[edit]", "[]", "[", "{", '."', "e\u0301", "</s>", "\u2581"),
    *("www.", "http://", ".com", "href", "//", "lorem ipsum", "JavaScript ", "use cookies.", "Dr. X! ", "\u201d"),
    *("1.2.3.4", "12:34:56", "a@b.c", "DE44 5001", "0123456789abcdef", "-----BEGIN", "555-123-4567 "),
)
_PART = st.tuples(st.sampled_from((*_SCRIPTS, *_SIGNS)), st.integers(1, 12)).map(lambda part: part[0] * part[1])
_SHORT = st.one_of(st.sampled_from(("", "a", "\n", " ", "é", "日", "😀", *_SIGNS)), st.text(max_size=8))
_MIXED = st.lists(_PART, max_size=25).map("".join)
# the pieces of a sample overlap where a text becomes denser: few bytes a character, then many
_DENSER = st.tuples(
    st.sampled_from(("a", "word ", "é")),
    st.integers(1, 700),
    st.sampled_from(("日", "é", "😀", "ที่")),
    st.integers(1, 700),
).map(lambda parts: parts[0] * parts[1] + parts[2] * parts[3])
_TEXTS = st.one_of(
    st.lists(st.one_of(_MIXED, _SHORT, _DENSER), min_size=1, max_size=5),
    st.lists(_SHORT, min_size=1, max_size=30),  # row groups of short documents only
)
_FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def _row_group(texts: list[str], shifts: list[int]) -> tuple[Array, Array, list[bytes]]:
    """The bytes, the bounds of documents moved by so many bytes, and each document."""
    encoded = [text.encode("utf-8", "replace") for text in texts]
    data = b"".join(encoded)
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    moved = offsets + np.resize(np.array(shifts or [0]), len(offsets))
    offsets = np.maximum.accumulate(np.clip(moved, 0, len(data)))
    return np.frombuffer(data, np.uint8), offsets, [data[a:b] for a, b in pairwise(offsets.tolist())]


_ROW_GROUPS = st.builds(_row_group, _TEXTS, st.lists(st.integers(-3, 3), max_size=4) | st.just([0]))


def _alone(document: bytes) -> tuple[Array, Array]:
    return np.frombuffer(document, np.uint8), np.array([0, len(document)], np.int64)


def _text(document: bytes) -> str | None:
    """What a plain twin is asked; None where characters are cut."""
    try:
        return document.decode()
    except UnicodeDecodeError:
        return None


@_FEW
@given(_ROW_GROUPS)
def test_segmentation(group: tuple[Array, Array, list[bytes]]) -> None:
    data, offsets, documents = group
    begins = mark_words(data, offsets)
    for document, start, stop in zip(documents, offsets[:-1], offsets[1:], strict=True):
        assert np.array_equal(begins[start:stop], mark_words(*_alone(document)))
        if (text := _text(document)) is not None:
            places = np.cumsum([0, *(len(character.encode()) for character in text)])
            assert set(np.flatnonzero(begins[start:stop])) == {places[i] for i in begins_of(text)}


@_FEW
@given(_ROW_GROUPS)
def test_text_statistics(group: tuple[Array, Array, list[bytes]]) -> None:
    data, offsets, documents = group
    rows = measure_text(data, offsets, mark_words(data, offsets))
    for row, document in zip(rows, documents, strict=True):
        one, bounds = _alone(document)
        assert np.array_equal(row, measure_text(one, bounds, mark_words(one, bounds))[0])
        if (text := _text(document)) is not None and len(text) < 400:
            measured = dict(zip(STATISTICS, row.tolist(), strict=True))
            assert measured == pytest.approx(plain_statistics(text), rel=1e-12, abs=1e-15), text


@_FEW
@given(_ROW_GROUPS)
def test_web_statistics(group: tuple[Array, Array, list[bytes]]) -> None:
    data, offsets, documents = group
    statistics = measure_text(data, offsets, mark_words(data, offsets))
    rows = measure_web(data, offsets, statistics)
    for d, document in enumerate(documents):
        assert np.array_equal(rows[d], measure_web(*_alone(document), statistics[d : d + 1])[0])
        cuts = [c4_cuts(document, variant) for variant in (PAPER, DATASET)]
        text = _text(document)
        if text is None:
            continue
        measured = dict(zip(WEB_STATISTICS, rows[d].tolist(), strict=True))
        lines = [line for line in text.split("\n") if line.strip()]
        found = [[plain.c4_line(line, variant) for line in lines] for variant in (PAPER, DATASET)]
        assert measured["c4_paper_sentences"] == sum(count for count, _ in found[PAPER]), text
        assert measured["c4_dataset_sentences"] == sum(count for count, _ in found[DATASET]), text
        assert measured["c4_dataset_curly_bracket_lines"] == sum(what == "{" for _, what in found[DATASET])
        assert measured["c4_dataset_lorem_ipsum_lines"] == sum(what == "lorem" for _, what in found[DATASET])
        assert measured["curly_bracket_count"] == text.count("{")
        assert measured["terminal_line_share"] == sum(map(plain.ends_sentence, lines)) / max(len(lines), 1)
        lowered = "\n".join(lines).translate({c: c + 32 for c in range(65, 91)})
        assert measured["lorem_ipsum_count"] == lowered.count("lorem ipsum")
        for variant, ranges in zip((PAPER, DATASET), cuts, strict=True):
            assert all(a < b <= c for (a, b), (c, _) in pairwise([*ranges, (len(document), 0)]))
            left = document
            for start, stop in reversed(ranges):
                left = left[:start] + left[stop:]
            stays = [plain.c4_line(line, variant)[0] > 0 for line in text.split("\n")]
            ends = [*["\n"] * text.count("\n"), ""]
            kept = [
                re.sub(r"\[(?:[0-9]*|edit|citation needed)\]", "", line) + end
                for line, end, stay in zip(text.split("\n"), ends, stays, strict=True)
                if stay
            ]
            assert left.decode() == "".join(kept)


@_FEW
@given(_ROW_GROUPS, st.sampled_from(["en", "vi", "zh", "xx"]))
def test_roots_statistics(group: tuple[Array, Array, list[bytes]], code: str) -> None:
    data, offsets, documents = group
    rows = measure_roots(data, offsets, mark_words(data, offsets), [code] * len(documents))
    for row, document in zip(rows, documents, strict=True):
        one, bounds = _alone(document)
        assert np.array_equal(row, measure_roots(one, bounds, mark_words(one, bounds), [code])[0])
        text = _text(document)
        if text is not None and not any(map(is_unspaced, text)) and "\u200b" not in text and not _trims_more(text):
            assert row.tolist() == pytest.approx(list(plain_roots(text, code).values()), abs=1e-12), text


def _trims_more(text: str) -> bool:
    """Whether Python takes away white space at the ends that is none to ROOTS, which has a list of its own."""
    return text.strip() != text.strip(" \t\n\u00a0\u3000\u2002\u2003\u2005\u2008\u2009\u200a\u202f\x84\ufffc")


@_FEW
@given(_ROW_GROUPS)
def test_fingerprints(group: tuple[Array, Array, list[bytes]]) -> None:
    data, offsets, documents = group
    config = FingerprintConfig(bands=4, rows=2, sample_every=2)
    found = fingerprint_text(data, offsets, config)
    for d, document in enumerate(documents):
        alone = fingerprint_text(*_alone(document), config)
        assert found.counts[d] == alone.counts[0] == len(whole := shingle_set(document, config.shingle_words))
        assert np.array_equal(found.minima[d], alone.minima[0])
        sampled = found.samples[found.sample_bounds[d] : found.sample_bounds[d + 1]]
        assert np.array_equal(sampled, alone.samples) and np.isin(sampled, whole).all()
        if (text := _text(document)) is not None:
            letters = sum(category(c) == "L" for c in text)
            unspaced = sum(map(is_unspaced, text))
            words = "".join(c.lower()[0] for c in text).split()
            units = list(" ".join(words)) if unspaced and unspaced * 5 >= letters else words
            length = min(config.shingle_words, len(units))
            assert found.counts[d] == len({tuple(units[i : i + length]) for i in range(len(units) - length + 1)} - {()})


@_FEW
@given(_ROW_GROUPS, _TEXTS)
def test_evaluation_items(group: tuple[Array, Array, list[bytes]], items: list[str]) -> None:
    data, offsets, documents = group
    texts = [item.encode("utf-8", "replace").decode() for item in items]
    texts += [text for document in documents if (text := _text(document)) is not None]
    finder = EvaluationItems({"set": [(str(k), text) for k, text in enumerate(texts)]})
    found = finder.find(data, offsets)
    for document, contamination in zip(documents, found, strict=True):
        assert finder.find(*_alone(document)) == [contamination]
        assert contamination.ngram_share <= 1 and contamination.token_share <= 1
        for run in contamination.runs:
            words = plain_words(texts[int(run.item)])[run.at : run.at + run.words]
            assert len(words) == run.words >= 8
            if (text := _text(document[run.start : run.end])) is not None:
                assert plain_words(text) == words


@_FEW
@given(_ROW_GROUPS)
def test_candidates_of_personal_data(group: tuple[Array, Array, list[bytes]]) -> None:
    data, offsets, documents = group
    kinds, places, bounds = find_candidates(data, offsets)
    for d, document in enumerate(documents):
        mine = slice(bounds[d], bounds[d + 1])
        assert sorted(zip(kinds[mine].tolist(), (places[mine] - offsets[d]).tolist(), strict=True)) == plain.candidates(
            document
        ), document


@_FEW
@given(_ROW_GROUPS)
def test_hashes_of_lines(group: tuple[Array, Array, list[bytes]]) -> None:
    data, offsets, documents = group
    hashes: dict[str, int] = {"": 0}
    for document, start, stop in zip(documents, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        found = hash_lines(data, start, stop)
        for one, other in zip(found, hash_lines(np.frombuffer(document, np.uint8), 0, len(document)), strict=True):
            assert np.array_equal(one, other)
        if (text := _text(document)) is not None:
            lines = plain.normalised_lines(text)
            assert found[1].tolist() == [start for _, start, _ in lines]
            assert found[2].tolist() == [stop for _, _, stop in lines]
            for value, (line, _, _) in zip(found[0].tolist(), lines, strict=True):
                assert hashes.setdefault(line, value) == value, line
    assert len(set(hashes.values())) == len(hashes)


@pytest.fixture(scope="module")
def identifier() -> language.LanguageIdentifier:
    return language.LanguageIdentifier()


@_FEW
@given(_ROW_GROUPS)
@example(_row_group(["a" * 600 + "日" * 401], [0]))
@example(_row_group(["word " * 120 + "日" * 450] * 40, [0, 1, 2]))
def test_language(identifier: language.LanguageIdentifier, group: tuple[Array, Array, list[bytes]]) -> None:
    data, offsets, documents = group
    found = identifier.identify_many(data, offsets)
    identifier.identify_lines(data, offsets)
    for document, one in zip(documents, found, strict=True):
        assert identifier.identify_many(*_alone(document)) == [one]
        for characters, pieces in (
            (language.SAMPLE_CHARACTERS, language.SAMPLE_PIECES),
            (quality.SAMPLE_CHARACTERS, quality.SAMPLE_PIECES),
            (8, 4),
        ):
            sampled = sample_text(document, characters, pieces)
            if (text := _text(document)) is not None:
                assert sampled.decode() == plain.sample(text, characters, pieces)


@_FEW
@given(st.integers(0, 4000), st.integers(0, 4000), st.binary(max_size=40), st.integers(1, 6))
def test_a_sample_of_any_bytes(leads: int, continuing: int, rest: bytes, pieces: int) -> None:
    for data in (b"a" * leads + b"\x80" * continuing + rest, rest + b"\xbf" * continuing + b"\xf0" * leads):
        assert len(sample_text(data, 1000, pieces)) <= max(4 * 1000 + pieces, 0)


@pytest.fixture(scope="module", params=["byte_level", "sentencepiece"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    texts = make_texts(1, 200)
    if request.param == "byte_level":
        settings = TokenizerConfig(vocabulary_size=512, reserved_entries=20)
        save_byte_level_bpe(train_byte_level_bpe(iter(texts), settings), path)
    else:
        settings = TokenizerConfig(kind="sentencepiece_bpe", vocabulary_size=640)
        save_sentencepiece_bpe(train_sentencepiece_bpe(texts, settings), path)
    return path


@_FEW
@given(st.lists(_TEXTS, min_size=1, max_size=3))
def test_encoders(folder: Path, groups: list[list[str]]) -> None:
    if folder not in _ENCODERS:
        reference = ReferenceEncoder(folder)
        ours = PieceEncoder(folder, reference.end_of_document, reference.vocabulary_size)
        _ENCODERS[folder] = (reference, ours, TokenBytes.of(reference))
    reference, ours, token_bytes = _ENCODERS[folder]
    for texts in groups:  # by one encoder, which remembers pieces
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
        right, found = reference.encode(texts), ours.encode(texts)
        assert np.array_equal(right.sizes, found.sizes) and np.array_equal(right.tokens, found.tokens)
        inexact = token_bytes.inexact(found, texts)
        assert all(token_bytes.may_differ(text) for text, differs in zip(texts, inexact, strict=True) if differs)


_ENCODERS: dict[Path, tuple[ReferenceEncoder, PieceEncoder, TokenBytes]] = {}
