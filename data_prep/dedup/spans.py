"""Spans of text that occur more than once: three sentences in a row, or 50 tokens in a row.

**Sentences.** C4 "discarded all but one of any three-sentence span occurring more than once in the data set" (Raffel et
al. 2020, JMLR 21, section 2.2). **Substrings.** "Whenever two examples share a sufficiently long substring", of 50
tokens, it is removed from one of them (Lee et al. 2022, arXiv:2107.06499, section 4.1). They find substrings with a
suffix array; here every span of exactly 50 tokens is hashed and compared. That is the same: a token is inside a
repeated substring of 50 tokens or more if and only if it is inside a repeated span of exactly 50. Memory is bounded by
the shuffle, and the disk takes 24 bytes for each token, where a suffix array takes 8 for each byte of text.

Of each span that occurs several times, in one document or in several, the first occurrence in the corpus stays, or
none; the units of the others are cut. So with `keep_first` each sentence, and each token of a repeated span, is left at
least once: the first occurrence of a sentence cannot be inside a later copy of a span. Only documents are compared that
are left, see `left.py`; 64-bit hashes are taken for the spans, as of lines.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.config import DedupConfig
from data_prep.dedup.evidence import document_id
from data_prep.dedup.left import LeftText, left_texts
from data_prep.dedup.lines import LINE_COLUMNS, marked
from data_prep.dedup.records import LINES, REPEATS
from data_prep.dedup.units_of_text import Units, sentences_of, spans_of, tokens_of
from data_prep.dedup.work import Unit, Work
from data_prep.edits import merge_cuts
from data_prep.run.shuffle import Grouped, Records, grouped, hash_bounds


@dataclass(frozen=True)
class Kind:
    """Kind of spans.

    Attributes:
        name: of the setting, of the folder of the results, and in the reason against a document that is cut whole.
        units: divides a text.
        length: number of units of a span.
    """

    name: str
    units: Callable[[bytes], Units]
    length: Callable[[DedupConfig], int]

    def is_used(self, settings: DedupConfig) -> bool:
        return bool(getattr(settings, self.name) != "none")

    def spans(self, text: bytes, settings: DedupConfig) -> Units:
        return spans_of(self.units(text), self.length(settings))


SENTENCES = Kind("sentences", sentences_of, lambda settings: settings.sentence_span)
SUBSTRINGS = Kind("substrings", tokens_of, lambda settings: settings.substring_tokens)
KINDS = (SENTENCES, SUBSTRINGS)


def spread_spans(unit: Unit, kind: Kind) -> None:
    """Spread the hashes of the spans of the documents of a bundle that are left."""
    work = unit.work
    with unit.spread(f"{kind.name}_spans", LINES, hash_bounds(work.plan.span_ranges(kind.name))) as spread:
        before = 0
        for left in left_texts(work, unit.number):
            hashes, _, _ = kind.spans(left.text, work.config.dedup)
            numbers = np.arange(before, before + len(hashes), dtype=np.int64)
            before += len(hashes)
            spread.add(hashes, np.full(len(hashes), left.document), numbers)


def find_repeated_spans(unit: Unit, kind: Kind) -> None:
    """Spread the spans of a range of hashes that are copies of others."""
    work = unit.work
    ranges = work.plan.span_ranges(kind.name)
    blocks = work.collect([(f"{kind.name}_spans", work.plan.bundle_count)], LINES, ranges, unit.number)
    keeps_first = getattr(work.config.dedup, kind.name) == "keep_first"
    with unit.spread_by_bundle(f"{kind.name}_copies", REPEATS) as copies:
        for spans in copied(grouped(blocks, ("key",), work.most_in_group(LINES)), keeps_first):
            copies.add(spans["document"], spans["line"])


def copied(blocks: Iterable[Grouped], keeps_first: bool) -> Iterator[Records]:
    """Yield the spans that go.

    Args:
        blocks: records of `LINES` by key, in the order of the corpus.
        keeps_first: the first of several equal spans stays.
    """
    for block in blocks:
        is_several = block.sizes > 1
        if block.continues:
            is_several[0] = True
        goes = np.repeat(is_several, block.sizes)
        if keeps_first:
            firsts = block.starts[:-1][1:] if block.continues else block.starts[:-1]
            goes[firsts] = False
        yield block.records[goes]


def cut_spans(unit: Unit, kind: Kind) -> None:
    """Write the ranges that are cut of the documents of a bundle, a row group for each shard."""
    work, bundle = unit.work, unit.number
    goes = marked(work, f"{kind.name}_copies", work.plan.span_ranges(kind.name), bundle)
    before = 0

    def cut(left: LeftText) -> list[tuple[int, int]]:
        nonlocal before
        _, starts, stops = kind.spans(left.text, work.config.dedup)
        known = np.flatnonzero(goes[before : before + len(starts)])
        before += len(starts)
        return cut_ranges(left.text, starts[known], stops[known])

    write_cuts(unit, kind.name, ((left, cut(left)) for left in left_texts(work, bundle)))


def write_cuts(unit: Unit, name: str, cuts: Iterable[tuple[LeftText, Sequence[tuple[int, int]]]]) -> None:
    """Write the ranges of documents of a bundle, given in order, a row group for each shard; count them."""
    written = cut_bytes = 0
    with (
        unit.output_file(unit.work.part(name, unit.number)) as path,
        pq.ParquetWriter(path, LINE_COLUMNS, compression="zstd") as file,
    ):
        for shard, documents in itertools.groupby(cuts, key=lambda pair: pair[0].shard.name):
            rows = [(document_id(shard, left.row), *ends) for left, ranges in documents for ends in ranges]
            if rows:
                columns = zip(LINE_COLUMNS.names, zip(*rows, strict=True), strict=True)
                file.write_table(pa.table({name: list(values) for name, values in columns}, LINE_COLUMNS))
                written += len(rows)
                cut_bytes += sum(stop - start for _, start, stop in rows)
    unit.counts[name], unit.counts[f"{name}_bytes"] = written, cut_bytes


def cut_ranges(text: bytes, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the ranges that are cut of a text: those given, merged, with the blanks that would be left over; all of
    the text if nothing but white space would be."""
    merged = merge_cuts(zip(starts.tolist(), stops.tolist(), strict=True))
    ranges = merge_cuts(tidied(text, start, stop) for start, stop in merged)
    if ranges:
        done, rest = 0, b""
        for start, stop in ranges:
            rest += text[done:start]
            done = stop
        if not (rest + text[done:]).strip():
            return [(0, len(text))]
    return ranges


def tidied(text: bytes, start: int, stop: int) -> tuple[int, int]:
    """Extend a range over the blanks after it, and at a beginning of a line over the line feed, so that neither two
    blanks in a row nor an empty line are left where there was none."""
    while text[stop : stop + 1] in (b" ", b"\t"):
        stop += 1
    ends_line = stop == len(text) or text[stop : stop + 1] == b"\n"
    if ends_line:
        while start and text[start - 1 : start] in (b" ", b"\t"):
            start -= 1
        if stop < len(text) and (start == 0 or text[start - 1 : start] == b"\n"):
            stop += 1
    return start, stop


def ranges_of(work: Work, kind: Kind) -> int:
    """Return the number of ranges of hashes of a kind; 0: it is not used."""
    return work.plan.span_ranges(kind.name) if kind.is_used(work.config.dedup) else 0
