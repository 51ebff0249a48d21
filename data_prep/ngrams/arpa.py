"""ARPA files, which KenLM and others read: n-grams with log10 of their probabilities and backoffs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.ngrams.packing import Packing
from data_prep.ngrams.smoothing import Floats, Smoothed, read_blocks
from data_prep.ngrams.sorting import Rows
from data_prep.run.documents import text_bytes
from foundation.atomic_files import whole_file
from foundation.progress import Progress

_TEXT = pa.large_string()


def write_arpa(path: Path, words: Sequence[str], orders: Sequence[Smoothed], packing: Packing) -> None:
    """Write a model, in the order in which `lmplz` writes it.

    Args:
        words: words by their ids.
    """
    names = pa.array(words, _TEXT)
    total = sum(smoothed.order.kept for smoothed in orders)
    with (
        Progress("train-ngrams: write", total, "n-grams") as progress,
        whole_file(path) as partial,
        open(partial, "wb") as file,
    ):
        counts = "".join(f"ngram {smoothed.order.n}={smoothed.order.kept}\n" for smoothed in orders)
        file.write(f"\\data\\\n{counts}".encode())
        for smoothed in orders:
            file.write(f"\n\\{smoothed.order.n}-grams:\n".encode())
            for ngrams, probabilities, backoffs in read_blocks(smoothed, packing):
                columns = [_logarithms(probabilities), _text_of(ngrams, smoothed.order.n, names, packing)]
                if smoothed.backoffs is not None:
                    columns.append(_logarithms(backoffs))
                file.write(_lines(columns))
                progress.advance(len(ngrams))
        file.write(b"\n\\end\\\n")


def _logarithms(values: Floats) -> pa.Array:
    """Return log10 as text; none is above 0, which KenLM would refuse, because of a rounding error."""
    return pa.array(np.minimum(np.log10(values), 0).astype(np.float32)).cast(_TEXT)


def _text_of(ngrams: Rows, n: int, names: pa.Array, packing: Packing) -> pa.Array:
    """Return n-grams as text, words divided by spaces."""
    words = [names.take(pa.array(packing.word(ngrams["high"], ngrams["low"], place))) for place in reversed(range(n))]
    return pc.binary_join_element_wise(*words, pa.scalar(" ", _TEXT))


def _lines(columns: Sequence[pa.Array]) -> memoryview:
    """Return rows as the bytes of lines, with tabs between the columns."""
    rows = pc.binary_join_element_wise(*columns, pa.scalar("\t", _TEXT))
    data, bounds = text_bytes(pc.binary_join_element_wise(rows, pa.scalar("", _TEXT), pa.scalar("\n", _TEXT)))
    return data[int(bounds[0]) : int(bounds[-1])].data
