"""Compiled bulk encoder for byte-level BPE with BLOOM's pre-tokenizer and for SentencePiece BPE with byte fallback."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import pre_tokenizers

from data_prep.tokenizer.encoding.byte_pairs import (
    ENTRY_BITS,
    LONG_MEMORY_SLOTS,
    MEMORY_SETS,
    RANK_BITS,
    REMEMBERED_BYTES,
    Memory,
    Vocabulary,
    encode_documents,
    pair_table,
)
from data_prep.tokenizer.encoding.encoded import SPACE, Encoded, Texts, TokenizerError
from data_prep.tokenizer.encoding.pieces import (
    PADDING,
    Neighbours,
    cut_long_pieces,
    divided_documents,
    excluded_tables,
    holds_character,
    mark_by_entries,
    mark_by_pattern,
)

VERSION = 4

PRE_TOKENIZER_PATTERN = r" ?[^(\s|[.,!?…。，、।۔،])]+"
"""BLOOM's pattern: a run of anything but white space, brackets, bars and sentence marks, with the space before it."""

_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
EXCLUDED = frozenset("()|.,!?…。，、।۔،" + _WHITE_SPACE)
"""Characters that the pattern excludes; white space is Unicode's, as in `\\s`. Tests compare this with the
reference."""

_SPACE_BYTES = np.frombuffer(SPACE.encode(), np.uint8)


@dataclass(frozen=True)
class _Spelling:
    """Initial symbols of a text, before any merge.

    Attributes:
        pages, characters: see `byte_pairs.Vocabulary`.
        byte_tokens: entry of each byte, for characters that are spelled by their bytes, [256].
        prefix: bytes before each document that is not empty.
        spaces_are_marked: a space and U+2581 are the same.
    """

    pages: npt.NDArray[np.int32]
    characters: npt.NDArray[np.int32]
    byte_tokens: npt.NDArray[np.int32]
    prefix: bytes = b""
    spaces_are_marked: bool = False


class PieceEncoder:
    """Encoder that divides and merges in compiled code, writes to arrays, and caches pieces.

    Use it only through `open_encoder`, which requires that it has been proven equal to the reference. Memory: 48 MB and
    the tables of the vocabulary.

    Raises:
        TokenizerError: the tokenizer has a feature that this encoder lacks.
    """

    name = f"altiplano {VERSION}"

    def __init__(self, folder: Path, end_of_document: int, vocabulary_size: int) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        is_sentencepiece = bool(content["model"].get("byte_fallback"))
        has_prefix = (content["normalizer"] or {}).get("type") != "Replace"
        if not is_sentencepiece:
            wanted = _BYTE_LEVEL
        elif has_prefix:
            wanted = _SENTENCEPIECE
        else:
            wanted = _WITHOUT_PREFIX
            if content["pre_tokenizer"] == _SPLIT_AT_SPACES:
                content["pre_tokenizer"] = None
        _refuse_what_differs(path, content, wanted)
        self.end_of_document = end_of_document
        self.vocabulary_size = vocabulary_size
        vocabulary: dict[str, int] = content["model"]["vocab"]
        merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in content["model"]["merges"]]
        if vocabulary_size >= 1 << ENTRY_BITS or len(merges) >= (1 << RANK_BITS) - 1:
            raise _refused(path, f"{vocabulary_size} entries and {len(merges)} merges are more than it can count")
        if len(set(merges)) < len(merges):
            raise _refused(path, f"the merge {Counter(merges).most_common(1)[0][0]} is listed twice")
        pairs = np.array([[vocabulary[a], vocabulary[b]] for a, b in merges], np.int64).reshape(-1, 2)
        merged = np.array([vocabulary[a + b] for a, b in merges], np.uint32)
        if is_sentencepiece:
            self._spelling = _sentencepiece(path, vocabulary, b" " if has_prefix else b"")
        else:
            self._spelling = _byte_level(path, vocabulary, pairs, merged)
        spelling = self._spelling
        self._vocabulary = Vocabulary(
            spelling.pages, spelling.characters, spelling.byte_tokens, *pair_table(pairs), merged
        )
        self._mark: Callable[[npt.NDArray[np.uint8], int], npt.NDArray[np.uint64]]
        if is_sentencepiece:
            entries = [(a + b).replace(SPACE, " ").encode() for a, b in merges]
            joined = _joined(entries)
            self._mark = lambda data, size: mark_by_entries(data, size, joined)
        else:
            byte_of = {letter: byte for byte, letter in enumerate(byte_letters())}
            entries = [bytes(map(byte_of.__getitem__, a + b)) for a, b in merges]
            tables = excluded_tables(EXCLUDED)
            self._mark = lambda data, size: mark_by_pattern(data, size, *tables)
        self._neighbours = Neighbours.of(entries)
        self._memory = Memory(_lines_of_cache(MEMORY_SETS), _lines_of_cache(2 * LONG_MEMORY_SLOTS))

    def continuing(self) -> PieceEncoder:
        """Return the encoder of texts that continue a text; pieces are cached together."""
        other = copy(self)
        other._spelling = replace(self._spelling, prefix=b"")
        return other

    def encode(self, texts: Sequence[str]) -> Encoded:
        spelling, held = self._spelling, Texts.of(texts)
        if not held:
            return Encoded(np.empty(0, np.uint32), np.empty(0, np.int64))
        data, ends = divided_documents(held.data, held.offsets, spelling.prefix)
        if spelling.spaces_are_marked and holds_character(data, len(data) - PADDING, _SPACE_BYTES):
            documents = [bytes(one).replace(SPACE.encode(), b" ") for one in held.as_bytes()]
            return self.encode(Texts.of_bytes(documents))
        sizes = np.empty(len(ends), np.int64)
        tokens = np.empty(len(data) + len(ends), np.uint32)
        starts = self._mark(data, len(data) - PADDING)
        cut_long_pieces(data, starts, REMEMBERED_BYTES, self._neighbours.characters, self._neighbours.in_part)
        count = encode_documents(
            data,
            ends,
            starts,
            self.end_of_document,
            self._vocabulary,
            self._memory,
            tokens,
            sizes,
        )
        return Encoded(tokens[:count], sizes)


def _lines_of_cache(count: int) -> npt.NDArray[np.uint64]:
    """Return zeros, [count, 8], each row aligned to a cache line: a row across two lines is slower."""
    numbers = np.full(8 * count + 8, 0, np.uint64)  # filled: pages are mapped now, not during encoding
    first = -numbers.ctypes.data % 64 // 8
    return numbers[first : first + 8 * count].reshape(count, 8)


def _joined(entries: Iterable[bytes]) -> npt.NDArray[np.bool_]:
    """See `mark_by_entries`."""
    joined = np.zeros((256, 256), np.bool_)
    joined[:, 0x80:0xC0] = True
    for entry in entries:
        joined[list(entry[:-1]), list(entry[1:])] = True
    return joined.reshape(-1)


def _refused(path: Path, reason: str) -> TokenizerError:
    return TokenizerError(f"altiplano {VERSION} cannot take this tokenizer: {path}: {reason}")


_MODEL: dict[str, Any] = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "ignore_merges": False,
}
_BYTE_LEVEL: dict[str, Any] = {
    "model": {**_MODEL, "byte_fallback": False},
    "normalizer": None,
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PRE_TOKENIZER_PATTERN}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ],
    },
    "truncation": None,
    "padding": None,
}
_SENTENCEPIECE: dict[str, Any] = {
    "model": {**_MODEL, "byte_fallback": True},
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        ],
    },
    "pre_tokenizer": None,
    "truncation": None,
    "padding": None,
}
_WITHOUT_PREFIX: dict[str, Any] = {**_SENTENCEPIECE, "normalizer": _SENTENCEPIECE["normalizer"]["normalizers"][1]}
"""Required content of a tokenizer.json, by kind; other keys have no effect on encoding."""

_SPLIT_AT_SPACES: dict[str, Any] = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}
"""Pre-tokenizer of Gemma, which has no effect: the normalizer leaves no spaces."""


def _refuse_what_differs(path: Path, content: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name, found, right in _differences(content, wanted):
        raise _refused(path, f"{name} is {found!r}, not {right!r}")
    for token in content["added_tokens"]:
        if not token["special"]:
            raise _refused(path, f"the added token {token['content']!r} is not special")


def _differences(found: Any, wanted: Any, name: str = "") -> Iterable[tuple[str, Any, Any]]:
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key, right in wanted.items():
            yield from _differences(found.get(key), right, f"{name}.{key}".lstrip("."))
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for i, right in enumerate(wanted):
            yield from _differences(found[i], right, f"{name}.{i}")
    elif (found or None) != (wanted or None):  # missing, empty and false are equivalent
        yield name, found, wanted


def _byte_level(
    path: Path, vocabulary: Mapping[str, int], pairs: npt.NDArray[np.int64], merged: npt.NDArray[np.uint32]
) -> _Spelling:
    letters = byte_letters()
    missing = [byte for byte, letter in enumerate(letters) if letter not in vocabulary]
    if missing:
        raise _refused(path, f"no token for byte {missing[0]:#04x}")
    tokens = [vocabulary[letter] for letter in letters]
    begins = dict(enumerate(tokens[:0x80])) | _whole_characters(vocabulary, letters, pairs, merged)
    return _Spelling(*_by_page(begins), np.array(tokens, np.int32))


def _whole_characters(
    vocabulary: Mapping[str, int],
    letters: Sequence[str],
    pairs: npt.NDArray[np.int64],
    merged: npt.NDArray[np.uint32],
) -> dict[int, int]:
    """Return the code points of several bytes that are merged to one entry whatever is next to them, and the entries.

    This holds if every merge of the entry, or of an intermediate symbol at either end of it, with a symbol outside has
    a higher rank than the last merge inside: no such merge can then happen first, and other merges do not affect the
    character.
    """
    byte_of = {letter: byte for byte, letter in enumerate(letters)}
    rank_of = {(left, right): rank for rank, (left, right) in enumerate(pairs.tolist())}
    first_as_left, first_as_right = (np.full(max(vocabulary.values()) + 1, len(pairs)) for _ in range(2))
    for side, first in ((0, first_as_left), (1, first_as_right)):
        np.minimum.at(first, pairs[:, side], np.arange(len(pairs)))
    found = {}
    for name, entry in vocabulary.items():
        if not (2 <= len(name) <= 4 and byte_of.get(name[0], 0) >= 0xC0 and all(letter in byte_of for letter in name)):
            continue
        try:
            character = bytes(map(byte_of.__getitem__, name)).decode()
        except UnicodeDecodeError:
            continue
        parts, last_rank = [vocabulary[letter] for letter in name], -1
        at_left, at_right = {parts[0]}, {parts[-1]}
        while len(parts) > 1:
            rank, i = min((rank_of.get(pair, len(pairs)), i) for i, pair in enumerate(pairwise(parts)))
            if rank == len(pairs):
                break
            parts[i : i + 2] = [int(merged[rank])]
            last_rank = max(last_rank, rank)
            at_left.add(parts[0])
            at_right.add(parts[-1])
        outside = min(*(first_as_right[part] for part in at_left), *(first_as_left[part] for part in at_right))
        if len(character) == 1 and parts == [entry] and outside > last_rank:
            found[ord(character)] = entry
    return found


def _sentencepiece(path: Path, vocabulary: Mapping[str, int], prefix: bytes) -> _Spelling:
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    missing = [name for name in names if name not in vocabulary]
    if missing:
        raise _refused(path, f"no token {missing[0]}")
    begins = {ord(name.replace(SPACE, " ")): entry for name, entry in vocabulary.items() if len(name) == 1}
    byte_tokens = np.array([vocabulary[name] for name in names], np.int32)
    return _Spelling(*_by_page(begins), byte_tokens, prefix=prefix, spaces_are_marked=True)


def _by_page(begins: Mapping[int, int]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return pages and characters, see `byte_pairs.Vocabulary`, from code points and their initial entries."""
    held = sorted({code >> 8 for code in begins})
    pages = np.full(0x1100, len(held), np.int32)  # the last page is empty
    pages[held] = np.arange(len(held))
    characters = np.full((len(held) + 1) * 256, -1, np.int32)
    for code, entry in begins.items():
        characters[pages[code >> 8] << 8 | code & 0xFF] = entry
    return pages, characters


def byte_letters() -> list[str]:
    """Return the letter that represents each byte in the vocabulary: printable bytes represent themselves, others start
    at 256.

    Source: Radford et al. 2019, GPT-2, `encoder.py`, `bytes_to_unicode`.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    assert sorted(letters.values()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    return [letters[byte] for byte in range(256)]
