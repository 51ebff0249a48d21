"""Statistics of the rules of C4, mC4 and FineWeb, in one compiled pass over the lines of a text.

**Line.** The text between two line feeds, without white space at its ends; blank lines do not count.

**C4.** A line is kept if it ends in `.` `?` `!` or `"` and not in `...`, has enough words (parts without white space),
and contains neither "javascript" nor one of six phrases of policies. Citations (`[12]`, `[edit]`, `[citation needed]`)
are removed first. Two published variants disagree:

- `paper` (Raffel et al. 2020, JMLR 21, section 2.2): 3 words; a page with `{` or "lorem ipsum" anywhere is dropped;
- `dataset` (tensorflow_datasets/text/c4_utils.py, which made the released data): 5 words, none over 1,000 characters;
  `{` and "lorem ipsum" count only in lines that pass all previous conditions.

**Sentence.** Ends at `.` `?` `!` or their ideographic forms, with closing quotes and brackets after it, before white
space that no lower-case letter follows, or at the end of the line; not after a single capital letter or a title (Mr.,
Mrs., Ms., Dr., St., Prof.). The paper does not define sentences; the dataset's code uses a trained tokenizer.

C4's removal of repeated spans of three sentences is `dedup.sentences`; its list of bad words is the rule set
`bad_words`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.kernels.characters import SPACE, TERMINAL, character_flags, decode, next_line, trimmed
from data_prep.kernels.kernel import Bytes, Places, Shares, inlined, kernel, longest_text, part, read_only, scratch_size
from data_prep.kernels.machine_words import at
from data_prep.signals.text_statistics import STATISTICS

WEB_STATISTICS = (
    "terminal_line_share",  # lines that end a sentence
    "short_line_share",  # lines of at most 30 characters, white space included
    "line_feeds_per_word",
    "duplicate_line_character_share_without_breaks",  # of characters other than line feeds
    "long_line_count",  # lines of 200 characters or more, white space included
    "curly_bracket_count",  # `{`
    "lorem_ipsum_count",  # in any case
    "c4_paper_sentences",  # in kept lines
    "c4_dataset_sentences",
    "c4_dataset_curly_bracket_lines",  # lines with `{` that pass the previous conditions
    "c4_dataset_lorem_ipsum_lines",
)
"""Columns of `measure_web`, in this order."""

WEB_COUNTS = frozenset(WEB_STATISTICS[4:])
"""Statistics that are integers."""

_TERMINAL_LINES = WEB_STATISTICS.index("terminal_line_share")
_SHORT_LINES = WEB_STATISTICS.index("short_line_share")
_LINE_FEEDS = WEB_STATISTICS.index("line_feeds_per_word")
"""Column of line feeds; the kernel fills in their number."""
_DUPLICATE_CHARACTERS = WEB_STATISTICS.index("duplicate_line_character_share_without_breaks")
_LONG_LINES = WEB_STATISTICS.index("long_line_count")
_BRACKETS = WEB_STATISTICS.index("curly_bracket_count")
_LOREM_IPSUM = WEB_STATISTICS.index("lorem_ipsum_count")
_PAPER_SENTENCES = WEB_STATISTICS.index("c4_paper_sentences")
_DATASET_SENTENCES = WEB_STATISTICS.index("c4_dataset_sentences")
_BRACKET_LINES = WEB_STATISTICS.index("c4_dataset_curly_bracket_lines")
_LOREM_LINES = WEB_STATISTICS.index("c4_dataset_lorem_ipsum_lines")

PAPER, DATASET = 0, 1
_MINIMUM_WORDS = (3, 5)
_LONGEST_WORD = 1000
_SHORT_LINE, _LONG_LINE = 30, 200

_LOREM, _JAVASCRIPT, _POLICY = 1, 2, 4


_RARE_LETTERS = b"kvm"
"""Letters that are rare in text; each phrase contains one, so phrases are searched only around them."""


def _phrases(*phrases: bytes) -> npt.NDArray[np.uint8]:
    """Return a row for each phrase: its length, the position of its first rare letter, its bytes."""
    table = np.zeros((len(phrases), 18), dtype=np.uint8)
    for k, phrase in enumerate(phrases):
        table[k, 0] = len(phrase)
        table[k, 1] = next(place for place, letter in enumerate(phrase) if letter in _RARE_LETTERS)
        table[k, 2 : 2 + len(phrase)] = np.frombuffer(phrase, dtype=np.uint8)
    return table


_PHRASES = _phrases(
    b"lorem ipsum",
    b"javascript",
    b"terms of use",
    b"privacy policy",
    b"cookie policy",
    b"uses cookies",
    b"use of cookies",
    b"use cookies",
)
_CITATIONS = np.array(
    [[len(word), *word.ljust(17)] for word in (b"[edit]", b"[citation needed]")],
    dtype=np.uint8,
)
"""A row for each citation: its length, its bytes."""
_BITS = np.array([_LOREM, _JAVASCRIPT] + [_POLICY] * 6, dtype=np.int64)
_MAY_END_SENTENCE = np.isin(np.arange(256), np.frombuffer(b".?!\xe3\xef", dtype=np.uint8))
"""Whether each byte may begin the end of a sentence."""
_MAY_FOLLOW_SENTENCE = np.isin(np.arange(256), np.frombuffer(b"\"')].?!", dtype=np.uint8))
"""Whether each byte may continue the end of a sentence."""
_IS_RARE = np.isin(np.arange(256), np.frombuffer(_RARE_LETTERS + _RARE_LETTERS.upper(), dtype=np.uint8))


@part
def _phrases_around(data: Bytes, i: int, first: int, last: int) -> np.int64:
    """Return the bits of the phrases within [first, last), in any case, whose first rare letter is byte i."""
    found = np.int64(0)
    for k in range(_PHRASES.shape[0]):
        length, start = np.int64(_PHRASES[k, 0]), i - np.int64(_PHRASES[k, 1])
        if start < first or start + length > last:
            continue
        j = 0
        while j < length:
            byte = at(data, start + j)
            if 0x41 <= byte <= 0x5A:
                byte |= np.uint8(0x20)
            if byte != _PHRASES[k, 2 + j]:
                break
            j += 1
        if j == length:
            found |= _BITS[k]
    return found


@part
def _citation_at(data: Bytes, i: int, stop: int) -> int:
    """Return the size of the citation that begins with the `[` at byte i, else 0."""
    j = i + 1
    while j < stop and 0x30 <= data[j] <= 0x39:
        j += 1
    if j < stop and data[j] == 0x5D:
        return j + 1 - i
    for word in range(_CITATIONS.shape[0]):
        size = np.int64(_CITATIONS[word, 0])
        if i + size <= stop:
            k = 0
            while k < size and data[i + k] == _CITATIONS[word, 1 + k]:
                k += 1
            if k == size:
                return k
    return 0


@part
def _is_title(data: Bytes, first: int, stop: int) -> bool:
    """Return whether the word that ends before the full stop at `stop` is one capital letter or a title."""
    start = stop
    letters = np.int64(0)
    while start > first and stop - start < 5:
        byte = data[start - 1]
        if not (0x41 <= byte <= 0x5A or 0x61 <= byte <= 0x7A):
            break
        letters |= np.int64(byte) << (8 * (stop - start))
        start -= 1
    if start == stop or not 0x41 <= data[start] <= 0x5A:
        return False
    return (
        stop - start == 1
        or letters == 0x4D72  # Mr
        or letters == 0x4D7273  # Mrs
        or letters == 0x4D73  # Ms
        or letters == 0x4472  # Dr
        or letters == 0x5374  # St
        or letters == 0x50726F66  # Prof
    )


@part
def end_of_sentence(data: Bytes, first: int, begin: int, last: int, flags: Bytes) -> int:
    """Return where the sentence ends that begins at `begin` in a trimmed line [first, last); text after the last full
    stop is one too."""
    i = begin
    while i < last:
        byte = at(data, i)
        if byte == 0x2E or byte == 0x3F or byte == 0x21:  # . ? !
            is_wide = False
            size = np.int64(1)
        elif byte == 0xE3 or byte == 0xEF:
            point, size = decode(data, i, last)
            is_wide = point == 0x3002 or point == 0xFF01 or point == 0xFF1F
            if not is_wide:
                i += size
                continue
        else:
            i += 1
            while i < last and not at(_MAY_END_SENTENCE, at(data, i)):
                i += 1
            continue
        stop = i + size
        while stop < last and at(_MAY_FOLLOW_SENTENCE, at(data, stop)):
            stop += 1
        is_curled = stop + 2 < last and at(data, stop) == 0xE2 and at(data, stop + 1) == 0x80
        if is_curled and (at(data, stop + 2) == 0x99 or at(data, stop + 2) == 0x9D):  # ’ ”
            stop += 3
        ends = is_wide or stop >= last
        if not ends:
            point, size = decode(data, stop, last)
            if point < flags.shape[0] and (at(flags, point) & SPACE) != 0:
                following = stop + size
                while following < last and at(data, following) == 0x20:
                    following += 1
                goes_on = following < last and 0x61 <= at(data, following) <= 0x7A
                ends = not goes_on and not (byte == 0x2E and _is_title(data, first, i))
        if ends:
            return stop
        i = stop
    return last


@part
def _sentences(data: Bytes, first: int, last: int, flags: Bytes) -> int:
    """Count the sentences of a trimmed line."""
    sentences = 0
    i = first
    while i < last:
        i = end_of_sentence(data, first, i, last, flags)
        sentences += 1
    return sentences


@part
def _c4_line(data: Bytes, first: int, last: int, flags: Bytes, sentences: Places) -> int:
    """Fill the number of sentences of the line by variant, 0 if it is removed; return bits: 1 `{`, 2 "lorem ipsum" for
    the dataset.

    The line is [first, last), trimmed, without citations.
    """
    sentences[0] = sentences[1] = 0
    if first >= last:
        return 0
    end = at(data, last - 1)
    if not (end == 0x2E or end == 0x3F or end == 0x21 or end == 0x22):
        return 0
    if last - first >= 3 and end == 0x2E and at(data, last - 2) == 0x2E and at(data, last - 3) == 0x2E:
        return 0
    words, longest, length, found, has_bracket = 0, 0, 0, np.int64(0), False
    i = first
    while i < last:
        byte = at(data, i)
        if byte < 0x80:
            is_space, size = (at(flags, byte) & SPACE) != 0, np.int64(1)
            has_bracket |= byte == 0x7B
            if at(_IS_RARE, byte):
                found |= _phrases_around(data, i, first, last)
        else:
            point, size = decode(data, i, last)
            is_space = point < flags.shape[0] and (at(flags, point) & SPACE) != 0
        if is_space:
            length = 0
        else:
            words += length == 0
            length += 1
            longest = max(longest, length)
        i += size
    count = -1
    if words >= _MINIMUM_WORDS[0] and not found & (_JAVASCRIPT | _POLICY):
        count = _sentences(data, first, last, flags)
        sentences[0] = count
    if words < _MINIMUM_WORDS[1] or longest > _LONGEST_WORD:
        return 0
    if found & _LOREM:
        return 2
    if found & _JAVASCRIPT:
        return 0
    if has_bracket:
        return 1
    if not found & _POLICY:
        sentences[1] = count
    return 0


@part
def _without_citations(data: Bytes, first: int, last: int, copy: Bytes) -> int:
    """Copy a line without its citations; return the number of bytes copied."""
    copied = 0
    i = first
    while i < last:
        size = _citation_at(data, i, last) if data[i] == 0x5B else 0
        if size:
            i += size
        else:
            copy[copied] = data[i]
            copied += 1
            i += 1
    return copied


@inlined
def _c4_of_line(
    data: Bytes,
    first: int,
    last: int,
    has_citation: bool,
    flags: Bytes,
    copy: Bytes,
    copy_read_only: Bytes,
    sentences: Places,
) -> int:
    """Apply `_c4_line` to a line that may have citations; both copies are views of the same scratch memory."""
    if not has_citation:
        return _c4_line(data, first, last, flags, sentences)
    copied = _without_citations(data, first, last, copy)
    return _c4_line(copy_read_only, np.int64(0), copied, flags, sentences)


@kernel
def _measure(
    data: Bytes,
    offsets: Places,
    flags: Bytes,
    copy: Bytes,
    copy_read_only: Bytes,
    sentences: Places,
    rows: Shares,
) -> None:
    for d in range(rows.shape[0]):
        row = rows[d]
        start, end = offsets[d], offsets[d + 1]
        lines, terminal, short, brackets, lorem = 0, 0, 0, 0, 0
        while start < end:
            stop, characters, has_citation = next_line(data, start, end)
            row[_LINE_FEEDS] += stop < end
            first, last = trimmed(data, start, stop, flags)
            row[_LONG_LINES] += characters >= _LONG_LINE
            if first < last:
                lines += 1
                short += characters <= _SHORT_LINE
                lead = last - 1
                while lead > first and (at(data, lead) & 0xC0) == 0x80:
                    lead -= 1
                point, _ = decode(data, lead, last)
                terminal += point < flags.shape[0] and (at(flags, point) & TERMINAL) != 0
                for i in range(first, last):
                    brackets += at(data, i) == 0x7B
                for i in range(first + 4, last):
                    if (at(data, i) | 0x20) == 0x6D and (at(data, i - 1) | 0x20) == 0x65:  # em
                        lorem += (_phrases_around(data, i, first, last) & _LOREM) != 0
                bits = _c4_of_line(data, first, last, has_citation, flags, copy, copy_read_only, sentences)
                row[_PAPER_SENTENCES] += sentences[PAPER]
                row[_DATASET_SENTENCES] += sentences[DATASET]
                row[_BRACKET_LINES] += bits & 1
                row[_LOREM_LINES] += bits >> 1
            start = stop + 1
        row[_BRACKETS], row[_LOREM_IPSUM] = brackets, lorem
        row[_TERMINAL_LINES] = terminal / max(lines, 1)
        row[_SHORT_LINES] = short / max(lines, 1)


@kernel
def _c4_cuts(
    data: Bytes,
    flags: Bytes,
    variant: int,
    copy: Bytes,
    copy_read_only: Bytes,
    sentences: Places,
    starts: Places,
    stops: Places,
) -> int:
    """Fill the ranges that the variant removes from a text, lines with their line feed; return their number."""
    cuts = 0
    start, end = np.int64(0), np.int64(data.shape[0])
    while start < end:
        stop, _, has_citation = next_line(data, start, end)
        first, last = trimmed(data, start, stop, flags)
        _c4_of_line(data, first, last, has_citation, flags, copy, copy_read_only, sentences)
        if sentences[variant] == 0:
            if cuts and stops[cuts - 1] == start:
                stops[cuts - 1] = min(stop + 1, end)
            else:
                starts[cuts], stops[cuts] = start, min(stop + 1, end)
                cuts += 1
        elif has_citation:
            for i in range(first, last):
                size = _citation_at(data, i, last) if data[i] == 0x5B else 0
                if size:
                    starts[cuts], stops[cuts] = i, i + size
                    cuts += 1
        start = stop + 1
    return cuts


def measure_web(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], statistics: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Measure documents, concatenated as in an Arrow string column: `float64[documents, len(WEB_STATISTICS)]`.

    Args:
        offsets: document d is bytes [offsets[d], offsets[d + 1]).
        statistics: result of `text_statistics.measure_text` for the same documents.
    """
    rows = np.zeros((len(offsets) - 1, len(WEB_STATISTICS)), dtype=np.float64)
    copy = np.empty(scratch_size(longest_text(offsets)), np.uint8)
    sentences = np.empty(2, np.int64)
    _measure(read_only(data), read_only(offsets), character_flags(), copy, read_only(copy), sentences, rows)
    characters = statistics[:, STATISTICS.index("character_count")]
    repeated = statistics[:, STATISTICS.index("duplicate_line_character_share")] * characters
    rows[:, _DUPLICATE_CHARACTERS] = repeated / np.maximum(characters - rows[:, _LINE_FEEDS], 1)
    rows[:, _LINE_FEEDS] /= np.maximum(statistics[:, STATISTICS.index("word_count")], 1)
    return rows


def c4_cuts(text: bytes, variant: int) -> list[tuple[int, int]]:
    """Return the half-open byte ranges that C4 removes from a text: whole lines, and citations in kept ones."""
    data = read_only(np.frombuffer(text, dtype=np.uint8))
    room = scratch_size(len(data))
    starts, stops = np.empty(room, np.int64), np.empty(room, np.int64)
    copy = np.empty(room, np.uint8)
    sentences = np.empty(2, np.int64)
    cuts = _c4_cuts(data, character_flags(), variant, copy, read_only(copy), sentences, starts, stops)
    return list(zip(starts[:cuts].tolist(), stops[:cuts].tolist(), strict=True))
