"""Our own bulk encoder for byte-level BPE with BLOOM's pre-tokenizer, which gigatoken does not take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import pre_tokenizers

from data_prep.tokenizer.byte_pairs import (
    MEMORY_SETS,
    PADDING,
    byte_classes,
    encode_documents,
    key_masks,
    pair_table,
)
from data_prep.tokenizer.encoded import Encoded, TokenizerError

VERSION = 1

PRE_TOKENIZER_PATTERN = r" ?[^(\s|[.,!?…。，、।۔،])]+"
"""BLOOM's: a run of anything but white space, brackets, bars and sentence marks, with the space before it."""

_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
EXCLUDED = frozenset("()|.,!?…。，、।۔،" + _WHITE_SPACE)
"""What the pattern excludes; white space is Unicode's, as `\\s` means it there. Tests hold this to the reference."""


class PieceEncoder:
    """Splits and merges in compiled code, straight into arrays, and remembers pieces.

    Use it only through `open_encoder`: it must have been proven equal. Memory: 4 MB and the tables of the merges.

    Raises:
        TokenizerError: the tokenizer does anything that this does not.
    """

    name = f"altiplano {VERSION}"

    def __init__(self, folder: Path, end_of_document: int, vocabulary_size: int) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        _refuse_what_differs(path, content)
        self.end_of_document = end_of_document
        self.vocabulary_size = vocabulary_size
        vocabulary: dict[str, int] = content["model"]["vocab"]
        letters = byte_letters()
        missing = [byte for byte, letter in enumerate(letters) if letter not in vocabulary]
        if missing:
            raise TokenizerError(f"{path}: no token for byte {missing[0]:#04x}")
        self._byte_tokens = np.array([vocabulary[letter] for letter in letters], np.int64)
        merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in content["model"]["merges"]]
        pairs = np.array([[vocabulary[a], vocabulary[b]] for a, b in merges], np.int64).reshape(-1, 2)
        merged = np.array([vocabulary[a + b] for a, b in merges], np.int64)
        self._table, self._hints = pair_table(pairs, merged)
        self._first_bytes, self._code_points = byte_classes(EXCLUDED)
        self._masks = key_masks()
        self._memory = np.zeros((MEMORY_SETS, 2, 8), np.uint64)

    def encode(self, texts: Sequence[str]) -> Encoded:
        documents = [text.encode() for text in texts]
        data = np.frombuffer(b"".join([*documents, bytes(PADDING)]), np.uint8)
        ends = np.cumsum(np.fromiter(map(len, documents), np.int64, len(documents)))
        tokens = np.empty(len(data) + len(documents) + PADDING, np.uint32)
        sizes = np.empty(len(documents), np.int64)
        count = encode_documents(
            data,
            ends,
            self.end_of_document,
            self._first_bytes,
            self._code_points,
            self._byte_tokens,
            self._table,
            self._hints,
            self._masks,
            self._memory,
            tokens,
            sizes,
        )
        return Encoded(tokens[:count], sizes)


def _refuse_what_differs(path: Path, content: Mapping[str, Any]) -> None:
    model = content["model"]
    steps = (content["pre_tokenizer"] or {}).get("pretokenizers") or [{}, {}]
    wanted: dict[str, tuple[Any, Any]] = {
        "model.type": (model.get("type"), "BPE"),
        "model.dropout": (model.get("dropout"), None),
        "model.continuing_subword_prefix": (model.get("continuing_subword_prefix") or None, None),
        "model.end_of_word_suffix": (model.get("end_of_word_suffix") or None, None),
        "model.ignore_merges": (model.get("ignore_merges", False), False),
        "normalizer": (content["normalizer"], None),
        "truncation": (content["truncation"], None),
        "padding": (content["padding"], None),
        "number of pre-tokenizers": (len(steps), 2),
        "pattern": (steps[0].get("pattern"), {"Regex": PRE_TOKENIZER_PATTERN}),
        "pattern.behavior": (steps[0].get("behavior"), "Isolated"),
        "pattern.invert": (steps[0].get("invert"), False),
        "second pre-tokenizer": (steps[1].get("type"), "ByteLevel"),
        "add_prefix_space": (steps[1].get("add_prefix_space"), False),
        "use_regex": (steps[1].get("use_regex"), False),
        "added tokens that are not special": ([t["content"] for t in content["added_tokens"] if not t["special"]], []),
    }
    for name, (found, right) in wanted.items():
        if found != right:
            raise TokenizerError(f"altiplano {VERSION} cannot take this tokenizer: {path}: {name} is {found!r}")


def byte_letters() -> list[str]:
    """The letter that stands for each byte in the vocabulary: printable ones for themselves, others from 256 on.

    Source: Radford et al. 2019, GPT-2, `encoder.py`, `bytes_to_unicode`.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    assert sorted(letters.values()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    return [letters[byte] for byte in range(256)]
