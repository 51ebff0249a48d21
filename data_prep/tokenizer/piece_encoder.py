"""Our own bulk encoder, for byte-level BPE with BLOOM's pre-tokenizer and for SentencePiece BPE with byte fallback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import pre_tokenizers

from data_prep.tokenizer.byte_pairs import (
    IRREGULAR,
    LONG_MEMORY_SLOTS,
    MEMORY_SETS,
    RANK_BITS,
    UNREACHABLE,
    derive,
    encode_documents,
    pair_table,
    prefixes,
)
from data_prep.tokenizer.encoded import SPACE, Encoded, Texts, TokenizerError
from data_prep.tokenizer.pieces import PADDING, excluded_tables, mark_by_entries, mark_by_pattern
from data_prep.tokenizer.trie import ENTRY_BITS, build_trie

VERSION = 3

PRE_TOKENIZER_PATTERN = r" ?[^(\s|[.,!?…。，、।۔،])]+"
"""BLOOM's: a run of anything but white space, brackets, bars and sentence marks, with the space before it."""

_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
EXCLUDED = frozenset("()|.,!?…。，、।۔،" + _WHITE_SPACE)
"""What the pattern excludes; white space is Unicode's, as `\\s` means it there. Tests hold this to the reference."""

_BETWEEN_DOCUMENTS = b"\n"
"""Belongs to none of them; see `mark_by_pattern`."""


@dataclass(frozen=True)
class _Spelling:
    """How a vocabulary writes bytes.

    Attributes:
        text: of an entry's name, as bytes of the text that is searched.
        symbols: what an entry's name begins as, before anything is merged; -1 for what has no entry.
        byte_tokens: token of each byte that no entry begins with, [256].
        prefix: before each document that is not empty.
        written_as: what is replaced in a text.
    """

    text: Callable[[str], bytes]
    symbols: Callable[[str], list[int]]
    byte_tokens: npt.NDArray[np.int64]
    prefix: bytes = b""
    written_as: tuple[bytes, bytes] | None = None


class PieceEncoder:
    """Cuts and covers in compiled code, straight into arrays, and remembers pieces.

    Use it only through `open_encoder`: it must have been proven equal. Memory: 24 MB and the tables of the vocabulary.

    Raises:
        TokenizerError: the tokenizer does anything that this does not.
    """

    name = f"altiplano {VERSION}"

    def __init__(self, folder: Path, end_of_document: int, vocabulary_size: int) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        is_sentencepiece = bool(content["model"].get("byte_fallback"))
        _refuse_what_differs(path, content, _SENTENCEPIECE if is_sentencepiece else _BYTE_LEVEL)
        self.end_of_document = end_of_document
        self.vocabulary_size = vocabulary_size
        vocabulary: dict[str, int] = content["model"]["vocab"]
        merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in content["model"]["merges"]]
        if vocabulary_size > 1 << ENTRY_BITS or len(merges) >= 1 << RANK_BITS:
            raise _refused(path, f"{vocabulary_size} entries and {len(merges)} merges are more than it can count")
        self._spelling = spelling = (_sentencepiece if is_sentencepiece else _byte_level)(path, vocabulary)
        pairs = np.array([[vocabulary[a], vocabulary[b]] for a, b in merges], np.int64).reshape(-1, 2)
        merged = np.array([vocabulary[a + b] for a, b in merges], np.int64)
        self._table, self._filter = pair_table(pairs)
        names = {vocabulary[name]: name for name in vocabulary if len(name) == 1} | {
            int(entry): a + b for entry, (a, b) in zip(merged, merges, strict=True)
        }
        symbols = {entry: spelling.symbols(name) for entry, name in names.items()}
        made_of = {entry: made for entry, made in symbols.items() if -1 not in made}
        self._origins = np.full(vocabulary_size, UNREACHABLE, np.int64)
        entries = np.array(list(made_of), np.int64)
        derive(*_flat(made_of.values(), np.int64), entries, merged, self._table, self._filter, self._origins)
        if irregular := np.flatnonzero(self._origins == IRREGULAR).tolist():
            raise _refused(path, f"the merges of entry {irregular[0]}, {names[irregular[0]]!r}, have no rising ranks")
        reachable = entries[self._origins[entries] >= 0]
        texts = [spelling.text(names[entry]) for entry in reachable.tolist()]
        self._trie = build_trie(texts, reachable)
        self._lengths = np.zeros(vocabulary_size, np.int32)
        self._lengths[reachable] = [len(text) for text in texts]
        self._shorter = np.full(vocabulary_size, -1, np.int32)
        flat, ends = _flat(texts, np.uint8)
        prefixes(flat, ends, reachable, self._trie, self._shorter)
        self._mark: Callable[[npt.NDArray[np.uint8], int], npt.NDArray[np.uint64]]
        if is_sentencepiece:
            joined = _joined(flat, ends)
            self._mark = lambda data, size: mark_by_entries(data, size, joined)
        else:
            tables = excluded_tables(EXCLUDED)
            self._mark = lambda data, size: mark_by_pattern(data, size, *tables)
        self._memory = np.zeros((MEMORY_SETS, 8), np.uint64)
        self._long_memory = np.zeros((LONG_MEMORY_SLOTS, 16), np.uint64)

    def encode(self, texts: Sequence[str]) -> Encoded:
        spelling, held = self._spelling, Texts.of(texts)
        documents = held.as_bytes()
        parts: list[bytes | memoryview] = []
        for document in documents:
            parts += (spelling.prefix, document, _BETWEEN_DOCUMENTS) if document else (_BETWEEN_DOCUMENTS,)
        joined = b"".join([*parts, bytes(PADDING)])
        if spelling.written_as and spelling.written_as[0] in joined:
            return self.encode(Texts.of_bytes([bytes(one).replace(*spelling.written_as) for one in documents]))
        data = np.frombuffer(joined, np.uint8)
        sizes = held.sizes
        sizes[sizes > 0] += len(spelling.prefix)
        ends = np.cumsum(sizes + len(_BETWEEN_DOCUMENTS)) - len(_BETWEEN_DOCUMENTS)
        tokens = np.empty(len(data) + len(documents), np.uint32)
        count = encode_documents(
            data,
            np.stack([ends - sizes, ends], axis=1),
            self._mark(data, len(data) - PADDING),
            self.end_of_document,
            spelling.byte_tokens,
            self._trie,
            self._lengths,
            self._shorter,
            self._origins,
            self._table,
            self._filter,
            self._memory,
            self._long_memory,
            tokens,
            sizes,
        )
        assert count >= 0, "every piece has a cover"
        return Encoded(tokens[:count], sizes)


def _flat(rows: Iterable[Sequence[int]], dtype: type) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    held = list(rows)
    flat: npt.NDArray[Any] = np.fromiter((item for row in held for item in row), dtype)
    return flat, np.cumsum(np.fromiter(map(len, held), np.int64, len(held)))


def _joined(flat: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """See `mark_by_entries`."""
    joined = np.zeros((256, 256), np.bool_)
    joined[:, 0x80:0xC0] = True
    inner = np.ones(len(flat), np.bool_)
    inner[ends - 1] = False
    places = np.flatnonzero(inner)
    joined[flat[places], flat[places + 1]] = True
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
"""What must stand in a tokenizer.json; what is not named here has no effect on encoding."""


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
    elif (found or None) != (wanted or None):  # left out, empty and false are the same
        yield name, found, wanted


def _byte_level(path: Path, vocabulary: Mapping[str, int]) -> _Spelling:
    letters = byte_letters()
    missing = [byte for byte, letter in enumerate(letters) if letter not in vocabulary]
    if missing:
        raise _refused(path, f"no token for byte {missing[0]:#04x}")
    byte_of = {letter: byte for byte, letter in enumerate(letters)}
    return _Spelling(
        text=lambda name: bytes(map(byte_of.__getitem__, name)),
        symbols=lambda name: [vocabulary[letter] if letter in byte_of else -1 for letter in name],
        byte_tokens=np.array([vocabulary[letter] for letter in letters], np.int64),
    )


def _sentencepiece(path: Path, vocabulary: Mapping[str, int]) -> _Spelling:
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    missing = [name for name in names if name not in vocabulary]
    if missing:
        raise _refused(path, f"no token {missing[0]}")
    return _Spelling(
        text=lambda name: name.replace(SPACE, " ").encode(),
        symbols=lambda name: [vocabulary.get(character, -1) for character in name],
        byte_tokens=np.array([vocabulary[name] for name in names], np.int64),
        prefix=b" ",
        written_as=(SPACE.encode(), b" "),
    )


def byte_letters() -> list[str]:
    """The letter that stands for each byte in the vocabulary: printable ones for themselves, others from 256 on.

    Source: Radford et al. 2019, GPT-2, `encoder.py`, `bytes_to_unicode`.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    assert sorted(letters.values()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    return [letters[byte] for byte in range(256)]
