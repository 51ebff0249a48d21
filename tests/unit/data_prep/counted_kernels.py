"""Counts the work of compiled code: each basic block of numba's code that is executed, in kernels and what they call.

Run as a process of its own, because kernels have to be compiled anew: `python -m tests.unit.data_prep.counted_kernels`
prints, for each kernel and each text that is repeated, the counts at three lengths, each four times the one before.
Slices that are filled or copied count once, whatever their length.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_COUNT = ctypes.c_int64(0)

LENGTHS = (1500, 6000, 24000)
"""Bytes of the texts; what is bounded per document, such as a language's sample, is at its bound from the second on."""

UNITS = (
    *("a", " ", "\n", "a ", "word ", "The cat sat. ", "é", "снег ", "日", "本語。", "ที่", "한국어 ", "😀", "e\u0301"),
    *("- x\n", "...\n", "[1]", "[", "{", "a b\n", "lorem ipsum ", "use cookies.\n", "1.2.3.4 ", "12:34:56 ", "a@b.c "),
    *("0123456789abcdef ", "-----BEGIN ", "555-123-4567 ", "</s>", "\u2581", "\u3000", "\0"),
)


def count_blocks() -> None:
    """Make numba add one to the counter at the beginning of each basic block that it compiles from now on."""
    from llvmlite import ir
    from numba.core import lowering

    before: Any = lowering.Lower.pre_block

    def pre_block(self: Any, block: Any) -> None:
        before(self, block)
        address = ir.Constant(ir.IntType(64), ctypes.addressof(_COUNT))
        counter = address.inttoptr(ir.IntType(64).as_pointer())
        self.builder.store(self.builder.add(self.builder.load(counter), ir.IntType(64)(1)), counter)

    lowering.Lower.pre_block = pre_block


def entries(folder: Path) -> dict[str, Callable[[str], Any]]:
    """Each kernel that takes text, through its public entry."""
    import numpy as np

    from data_prep.config import FingerprintConfig, TokenizerConfig
    from data_prep.dedup.lines import hash_lines
    from data_prep.kernels.kernel import kernel
    from data_prep.signals import language
    from data_prep.signals.bad_words import BadWords
    from data_prep.signals.evaluations import EvaluationItems
    from data_prep.signals.fingerprints import fingerprint_text
    from data_prep.signals.pii.candidates import find_candidates
    from data_prep.signals.roots.statistics import measure_roots
    from data_prep.signals.segmentation import mark_words
    from data_prep.signals.text_statistics import measure_text
    from data_prep.signals.web_statistics import DATASET, c4_cuts, measure_web
    from data_prep.tokenizer.byte_level import save_byte_level_bpe, train_byte_level_bpe
    from data_prep.tokenizer.encoding.encode import ReferenceEncoder
    from data_prep.tokenizer.encoding.piece_encoder import PieceEncoder
    from data_prep.tokenizer.encoding.token_bytes import TokenBytes
    from data_prep.tokenizer.sentence_piece import save_sentencepiece_bpe, train_sentencepiece_bpe
    from tests.unit.data_prep.tokenizer.corpus import make_texts

    def group(text: str) -> tuple[Any, Any]:
        data = np.frombuffer(text.encode(), np.uint8)
        return data, np.array([0, len(data)], np.int64)

    def statistics(text: str) -> Any:
        return measure_text(*group(text), mark_words(*group(text)))

    def web(text: str) -> Callable[[], Any]:
        rows = statistics(text)
        return lambda: measure_web(*group(text), rows)

    (folder / "words.txt").write_text("word\ncat sat\n")
    words = BadWords({"en": folder / "words.txt"})
    items = EvaluationItems({"units": [(unit, unit * (400 // len(unit))) for unit in UNITS]})
    identifier = language.LanguageIdentifier()
    texts = make_texts(1, 100)
    byte_level, pieces = folder / "byte_level", folder / "pieces"
    settings = TokenizerConfig(vocabulary_size=512, reserved_entries=20)
    save_byte_level_bpe(train_byte_level_bpe(iter(texts), settings), byte_level)
    settings = TokenizerConfig(kind="sentencepiece_bpe", vocabulary_size=640)
    save_sentencepiece_bpe(train_sentencepiece_bpe(texts, settings), pieces)

    def encoder(place: Path) -> Callable[[str], Any]:
        reference = ReferenceEncoder(place)
        ours = PieceEncoder(place, reference.end_of_document, reference.vocabulary_size)
        token_bytes = TokenBytes.of(reference)
        return lambda text: token_bytes.inexact(ours.encode([text]), [text])

    def all_pairs(data: Any) -> int:
        found = 0
        for i in range(len(data)):
            for j in range(i):
                found += data[i] == data[j]
        return found

    quadratic = kernel(all_pairs)
    return {
        "words": lambda text: mark_words(*group(text)),
        "text statistics": statistics,
        "web statistics": lambda text: web(text)(),
        "C4's cuts": lambda text: c4_cuts(text.encode(), DATASET),
        "ROOTS": lambda text: measure_roots(*group(text), mark_words(*group(text)), ["en"]),
        "fingerprints": lambda text: fingerprint_text(*group(text), FingerprintConfig()),
        "bad words": lambda text: words.find(*group(text), ["en"]),
        "evaluation items": lambda text: items.find(*group(text)),
        "personal data": lambda text: find_candidates(*group(text)),
        "lines": lambda text: hash_lines(group(text)[0], 0, len(text.encode())),
        "language": lambda text: identifier.identify_many(*group(text)),
        "language of lines": lambda text: identifier.identify_lines(*group(text)),
        "byte-level BPE": encoder(byte_level),
        "SentencePiece BPE": encoder(pieces),
        "all pairs, the fault": lambda text: quadratic(np.frombuffer(text.encode(), np.uint8)),
    }


def main() -> int:
    """Print the counts as JSON: kernel -> text -> counts."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NUMBA_CACHE_DIR"] = folder  # before numba is imported; code that counts must never be found again
        count_blocks()
        found: dict[str, dict[str, list[int]]] = {}
        for name, entry in entries(Path(folder)).items():
            entry("compile")
            for unit in UNITS:
                for length in LENGTHS:
                    text = unit * (length // len(unit.encode()))
                    _COUNT.value = 0
                    entry(text)
                    found.setdefault(name, {}).setdefault(unit, []).append(_COUNT.value)
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
