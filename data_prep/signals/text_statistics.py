"""Statistics of the Gopher and code rules, in compiled passes over the UTF-8 bytes.

**Word.** A maximal run of characters without white space (`str.isspace`), divided where `segmentation` finds words of
scripts without spaces (`characters.UNSPACED_RANGES`) and where these scripts and others meet. The word is the run from
its first to its last letter, number or mark (Unicode categories L, N, M): punctuation and symbols around it are
excluded, those inside included (`don't`, `3.14`, `e-mail`). A run without any such character is no word; it counts only
in `alphabetic_word_share`. Case matters.

**Line.** The text between two line feeds, without white space at its ends; blank lines do not count, except in
`mean_line_characters`. **Paragraph.** Lines with no blank line between them.

**Character.** A Unicode code point. Shares of characters are shares of all characters of the text.

**Repeat.** An occurrence after the first. Equality is equality of 64-bit hashes.

Thresholds are in `data_prep/rules`. Source of the statistics: Rae et al. 2021, arXiv:2112.11446, appendix A.1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.kernels.characters import (
    LETTER,
    MARK,
    NUMBER,
    SPACE,
    UNSPACED,
    WORD,
    character_count,
    character_flags,
    decode,
    is_ascii_letter,
    next_line,
    trimmed,
)
from data_prep.kernels.counting import clear, count, occurrences, table_for
from data_prep.kernels.kernel import (
    Bytes,
    Flags,
    Hashes,
    Places,
    Shares,
    inlined,
    kernel,
    longest_text,
    part,
    read_only,
    scratch_size,
)
from data_prep.kernels.machine_words import EACH_BYTE, at, first_bytes, load_eight, lowest, mask_of
from data_prep.signals.segmentation import mark_words

COUNTS = (
    "byte_count",
    "character_count",
    "line_count",
    "paragraph_count",
    "word_count",
    "distinct_stop_words",
    "longest_line_characters",
)
"""Statistics that are integers."""

STATISTICS = (
    "byte_count",
    "character_count",
    "line_count",
    "paragraph_count",
    "word_count",
    "mean_word_length",  # characters
    "hash_symbols_per_word",  # `#`
    "ellipses_per_word",  # `…`, and `...` as often as it fits
    "bullet_line_share",  # lines that begin with one of • ‣ ▶ ◀ ◦ ■ □ ▪ ▫, or with - * – and a space
    "ellipsis_line_share",  # lines that end in `…` or `...`
    "alphabetic_word_share",  # runs with a letter, of all runs
    "distinct_stop_words",  # of Gopher's eight, any case
    "duplicate_line_share",
    "duplicate_paragraph_share",
    "duplicate_line_character_share",
    "duplicate_paragraph_character_share",
    # all occurrences of the most frequent n-gram, from first to last word; of equals the first to get that frequent
    "top_2_gram_character_share",
    "top_3_gram_character_share",
    "top_4_gram_character_share",
    # all repeated n-grams together, from first to last word, no character counted twice
    "duplicate_5_gram_character_share",
    "duplicate_6_gram_character_share",
    "duplicate_7_gram_character_share",
    "duplicate_8_gram_character_share",
    "duplicate_9_gram_character_share",
    "duplicate_10_gram_character_share",
    "longest_line_characters",  # white space included
    "mean_line_characters",  # white space and blank lines included
    "alphanumeric_share",  # letters and numbers, of all characters
    # letters per piece of the GPT-2 pre-tokenizer (letters, numbers or symbols in a row, white space other than one
    # blank): RedPajama counts tokens, which do not exist before a tokenizer is trained
    "alphabetic_characters_per_token",
)
"""Columns of the kernel's result, in this order. Per-word figures of a text without words divide by one."""

_BYTES = STATISTICS.index("byte_count")
_CHARACTERS = STATISTICS.index("character_count")
_LINES = STATISTICS.index("line_count")
_PARAGRAPHS = STATISTICS.index("paragraph_count")
_WORDS = STATISTICS.index("word_count")
_MEAN_WORD = STATISTICS.index("mean_word_length")
_HASH_SYMBOLS = STATISTICS.index("hash_symbols_per_word")
_ELLIPSES = STATISTICS.index("ellipses_per_word")
_BULLET_LINES = STATISTICS.index("bullet_line_share")
_ELLIPSIS_LINES = STATISTICS.index("ellipsis_line_share")
_ALPHABETIC_WORDS = STATISTICS.index("alphabetic_word_share")
_STOP_WORDS = STATISTICS.index("distinct_stop_words")
_DUPLICATE_LINES = STATISTICS.index("duplicate_line_share")
_DUPLICATE_PARAGRAPHS = STATISTICS.index("duplicate_paragraph_share")
_DUPLICATE_LINE_CHARACTERS = STATISTICS.index("duplicate_line_character_share")
_DUPLICATE_PARAGRAPH_CHARACTERS = STATISTICS.index("duplicate_paragraph_character_share")
_GRAMS = STATISTICS.index("top_2_gram_character_share")
"""Column of pairs; those of longer n-grams follow."""
_LONGEST_LINE = STATISTICS.index("longest_line_characters")
_MEAN_LINE = STATISTICS.index("mean_line_characters")
_ALPHANUMERIC = STATISTICS.index("alphanumeric_share")
_TOKEN_LETTERS = STATISTICS.index("alphabetic_characters_per_token")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SMALLEST_GRAM, _LARGEST_TOP_GRAM, _LARGEST_GRAM = 2, 4, 10
_PIECE_KINDS = np.array(
    [1 if flag & (LETTER | MARK) else 2 if flag & NUMBER else 4 if flag & SPACE else 3 for flag in range(16)], np.uint8
)


@part
def _mixed_hash(data: Bytes, start: int, stop: int) -> np.uint64:
    """Hash bytes [start, stop), at least one, to 64 bits; never 0, which marks an empty slot."""
    value = np.uint64(stop - start)
    while stop - start > 8:
        value = (value ^ load_eight(data, start)) * _MULTIPLIER
        value ^= value >> np.uint64(32)
        start += 8
    value = (value ^ first_bytes(data, start, stop - start)) * _MULTIPLIER
    value ^= value >> np.uint64(32)
    value *= np.uint64(0xD6E8FEB86659FD93)
    value ^= value >> np.uint64(32)
    return value | np.uint64(1)


@part
def _repeats(hashes: Hashes, characters: Places, first: int | np.int64, entries: int, table: Hashes) -> tuple[int, int]:
    """Count the `entries` from `first` on that repeat an earlier one, and their characters."""
    mask = clear(entries, table)
    repeated, repeated_characters = 0, 0
    for k in range(first, first + entries):
        _, times = count(at(hashes, k), table, mask)
        if times > 1:
            repeated += 1
            repeated_characters += at(characters, k)
    return repeated, repeated_characters


def _letters(word: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(word, "little"))


_THE, _BE, _TO, _OF, _AND, _THAT, _HAVE, _WITH = map(
    _letters, (b"the", b"be", b"to", b"of", b"and", b"that", b"have", b"with")
)


@inlined
def _stop_word(packed: np.uint64, size: int) -> np.uint64:
    """Return the bit of one of Gopher's eight stop words, in any case, else 0."""
    word = packed | (EACH_BYTE * np.uint64(0x20) & mask_of(size))
    return (
        (word == _THE)
        | (word == _BE) << 1
        | (word == _TO) << 2
        | (word == _OF) << 3
        | (word == _AND) << 4
        | (word == _THAT) << 5
        | (word == _HAVE) << 6
        | (word == _WITH) << 7
    )


@inlined
def _ascii_letters(data: Bytes, i: int, end: int) -> int:
    """Return how many of the next eight bytes from i on are consecutive ASCII letters."""
    if i + 8 > data.shape[0]:
        run = 0
        while i + run < end and run < 8 and is_ascii_letter(at(data, i + run)):
            run += 1
        return run
    eight = load_eight(data, i)
    folded = (eight | EACH_BYTE * np.uint64(0x20)) & EACH_BYTE * np.uint64(0x7F)
    from_a = folded + EACH_BYTE * np.uint64(0x80 - 0x61)  # the highest bit of each byte that is at least `a`
    after_z = folded + EACH_BYTE * np.uint64(0x80 - 0x7B)
    others = (~from_a | after_z | eight) & EACH_BYTE * np.uint64(0x80)
    run = np.int64(lowest(others)) >> 3 if others else 8
    return min(run, end - i)


@inlined
def _letters_in_a_row(data: Bytes, i: int, end: int, flags: Bytes) -> tuple[int, int, int]:
    """Scan letters and marks of scripts with spaces from i on; return the number of characters and of letters, and the
    end."""
    characters, letters = 0, 0
    while i < end:
        if at(data, i) < 0x80:
            run = _ascii_letters(data, i, end)
            letters += run
            characters += run
            i += run
            if run < 8 and (i >= end or at(data, i) < 0x80):
                break
        else:
            point, size = decode(data, i, end)
            flag = at(flags, point) if point < flags.shape[0] else np.uint8(0)
            if not flag & (LETTER | MARK) or flag & UNSPACED:
                break
            letters += (flag & LETTER) != 0
            characters += 1
            i += size
    return characters, letters, i


@part
def _measure_words(
    data: Bytes,
    begin: int,
    end: int,
    flags: Bytes,
    begins: Flags,
    hashes: Hashes,
    starts: Places,
    stops: Places,
    row: Shares,
) -> int:
    """Fill hashes, first and last character position of each word; return their number."""
    words, runs, alphabetic_runs, word_characters = 0, 0, 0, 0
    characters, letters, numbers, pieces, hash_symbols, ellipses = 0, 0, 0, 0, 0, 0
    stop_words, dots, piece_kind = 0, 0, 0
    in_run, has_letter, after_unspaced, single_blank = False, False, False, False
    first_byte, last_byte, first_character, last_character = begin, begin, 0, 0
    i = begin
    while True:
        at_end = i >= end
        if not at_end and is_ascii_letter(at(data, i)) and not (in_run and after_unspaced):
            # fast path for most of a text: an ASCII letter and the letters after it
            if not in_run:
                in_run, after_unspaced = True, False
                first_byte = last_byte = i
            if last_byte == first_byte:
                first_byte, first_character = i, characters
            pieces += piece_kind != 1 and not single_blank
            has_letter, piece_kind, single_blank, dots = True, 1, False, 0
            run, run_letters, i = _letters_in_a_row(data, i, end, flags)
            characters += run
            letters += run_letters
            last_byte, last_character, at_end = i, characters, i >= end
        if at_end:
            point, following, flag = np.int64(32), i, np.uint8(SPACE)
        elif at(data, i) < 0x80:
            # a predictable branch, which does not depend on the size from `decode`
            point, following, flag = np.int64(at(data, i)), i + 1, at(flags, at(data, i))
        else:
            point, size = decode(data, i, end)
            following = i + size
            flag = at(flags, point) if point < flags.shape[0] else np.uint8(0)
        is_space = (flag & SPACE) != 0
        is_unspaced = (flag & UNSPACED) != 0
        if in_run and (is_space or ((is_unspaced or after_unspaced) and at(begins, i))):
            runs += 1
            alphabetic_runs += has_letter
            if last_byte > first_byte:
                hashes[np.uint64(words)] = _mixed_hash(data, first_byte, last_byte)
                size = min(last_byte - first_byte, 8)
                stop_words |= _stop_word(first_bytes(data, first_byte, size), size)
                starts[np.uint64(words)] = first_character
                stops[np.uint64(words)] = last_character
                word_characters += last_character - first_character
                words += 1
            in_run = False
        if at_end:
            break
        if not is_space:
            if not in_run:
                in_run, has_letter = True, False
                first_byte = last_byte = i
                after_unspaced = is_unspaced
            if flag & WORD:
                if last_byte == first_byte:
                    first_byte, first_character = i, characters
                last_byte, last_character = following, characters + 1
                has_letter |= (flag & LETTER) != 0
        # pieces: 1 letters, 2 numbers, 3 symbols, 4 white space, where one blank joins what follows it
        kind = np.int64(_PIECE_KINDS[flag & (SPACE | WORD)])
        is_new = kind != piece_kind
        pieces += is_new and not single_blank
        single_blank = is_new and kind == 4 and point == 32
        piece_kind = kind
        letters += (flag & LETTER) != 0
        numbers += (flag & NUMBER) != 0
        hash_symbols += point == 0x23
        ellipses += point == 0x2026
        dots = dots + 1 if point == 0x2E else 0
        if dots == 3:
            ellipses += 1
            dots = 0
        characters += 1
        i = following
    distinct_stop_words = 0
    while stop_words:
        distinct_stop_words += stop_words & 1
        stop_words >>= 1
    divisor = max(words, 1)
    row[_BYTES] = end - begin
    row[_CHARACTERS] = characters
    row[_WORDS] = words
    row[_MEAN_WORD] = word_characters / divisor
    row[_HASH_SYMBOLS] = hash_symbols / divisor
    row[_ELLIPSES] = ellipses / divisor
    row[_ALPHABETIC_WORDS] = alphabetic_runs / max(runs, 1)
    row[_STOP_WORDS] = distinct_stop_words
    row[_ALPHANUMERIC] = (letters + numbers) / max(characters, 1)
    row[_TOKEN_LETTERS] = letters / max(pieces, 1)
    return words


@part
def _measure_repeated_grams(
    words: int,
    hashes: Hashes,
    starts: Places,
    stops: Places,
    grams: Hashes,
    kept: Places,
    slots: Places,
    table: Hashes,
    row: Shares,
) -> None:
    """Top 2- to 4-grams and repeated 5- to 10-grams.

    An n-gram can only repeat where its first n - 1 words do, so for each n only positions left from n - 1 are examined:
    beyond n = 3 there are few in ordinary text.
    """
    characters = max(row[_CHARACTERS], 1.0)
    candidates = max(words - 1, 0)
    for p in range(candidates):
        kept[np.uint64(p)] = p
        grams[np.uint64(p)] = at(hashes, p)
    for n in range(_SMALLEST_GRAM, _LARGEST_GRAM + 1):
        while candidates and at(kept, candidates - 1) + n > words:
            candidates -= 1
        if candidates < 2:
            break
        mask = clear(candidates, table)
        best_count, best_slot = np.int64(1), np.int64(-1)
        covered, covered_to = 0, 0
        for k in range(candidates):
            p = at(kept, k)
            gram = (at(grams, p) ^ (at(grams, p) >> np.uint64(29))) * _MULTIPLIER + at(hashes, p + n - 1)
            grams[np.uint64(p)] = gram
            slot, times = count(gram, table, mask)
            slots[np.uint64(k)] = slot
            if times > best_count:
                best_count, best_slot = times, np.int64(slot)
            if n > _LARGEST_TOP_GRAM and times > 1:
                covered += at(stops, p + n - 1) - max(covered_to, at(starts, p))
                covered_to = at(stops, p + n - 1)
        left = 0
        for k in range(candidates):
            p = at(kept, k)
            if n <= _LARGEST_TOP_GRAM and at(slots, k) == best_slot:
                covered += at(stops, p + n - 1) - max(covered_to, at(starts, p))
                covered_to = at(stops, p + n - 1)
            if occurrences(at(slots, k), table) > 1:
                kept[np.uint64(left)] = p
                left += 1
        row[_GRAMS + n - _SMALLEST_GRAM] = covered / characters
        candidates = left


@part
def _starts_with_bullet(data: Bytes, start: int, stop: int, flags: Bytes) -> bool:
    point, size = decode(data, start, stop)
    if point == 0x2D or point == 0x2A or point == 0x2013:  # - * – are bullets only before a space
        if start + size >= stop:
            return True
        following, _ = decode(data, start + size, stop)
        return following < flags.shape[0] and (at(flags, following) & SPACE) != 0
    return (
        point == 0x2022
        or point == 0x2023
        or point == 0x25B6
        or point == 0x25C0
        or point == 0x25E6
        or point == 0x25A0
        or point == 0x25A1
        or point == 0x25AA
        or point == 0x25AB
    )


@part
def _ends_with_ellipsis(data: Bytes, start: int, stop: int) -> bool:
    if stop - start < 3:
        return False
    a, b, c = at(data, stop - 3), at(data, stop - 2), at(data, stop - 1)
    return (a == 0x2E and b == 0x2E and c == 0x2E) or (a == 0xE2 and b == 0x80 and c == 0xA6)


@part
def _measure_lines(
    data: Bytes, begin: int, end: int, flags: Bytes, hashes: Hashes, characters: Places, table: Hashes, row: Shares
) -> None:
    """Lines and paragraphs; `hashes` and `characters` are scratch: lines from the front, paragraphs from the back."""
    all_lines, lines, paragraphs, bullets, ellipses = 0, 0, 0, 0, 0
    longest, total = 0, 0
    paragraph_hash, paragraph_characters = np.uint64(0), 0
    back = hashes.shape[0] - 1
    start = begin
    while start <= end:
        stop, length, _ = next_line(data, start, end)
        is_last = stop >= end
        first = last = start
        if not is_last or start < stop:  # a final line feed ends a line and begins none
            longest = max(longest, length)
            total += length
            all_lines += 1
            first, last = trimmed(data, start, stop, flags)
        if first < last:
            hashes[np.uint64(lines)] = _mixed_hash(data, first, last)
            is_whole = first == start and last == stop
            characters[np.uint64(lines)] = length if is_whole else character_count(data, first, last)
            bullets += _starts_with_bullet(data, first, last, flags)
            ellipses += _ends_with_ellipsis(data, first, last)
            paragraph_hash = (paragraph_hash ^ (paragraph_hash >> np.uint64(29))) * _MULTIPLIER + at(hashes, lines)
            paragraph_characters += at(characters, lines)
            lines += 1
        if paragraph_characters and (first == last or is_last):
            hashes[np.uint64(back - paragraphs)] = paragraph_hash | np.uint64(1)
            characters[np.uint64(back - paragraphs)] = paragraph_characters
            paragraphs += 1
            paragraph_hash, paragraph_characters = np.uint64(0), 0
        start = stop + 1
    text_characters = max(row[_CHARACTERS], 1.0)
    row[_LINES] = lines
    row[_PARAGRAPHS] = paragraphs
    row[_BULLET_LINES] = bullets / max(lines, 1)
    row[_ELLIPSIS_LINES] = ellipses / max(lines, 1)
    repeated, repeated_characters = _repeats(hashes, characters, np.int64(0), lines, table)
    row[_DUPLICATE_LINES] = repeated / max(lines, 1)
    row[_DUPLICATE_LINE_CHARACTERS] = repeated_characters / text_characters
    repeated, repeated_characters = _repeats(hashes, characters, back - paragraphs + 1, paragraphs, table)
    row[_DUPLICATE_PARAGRAPHS] = repeated / max(paragraphs, 1)
    row[_DUPLICATE_PARAGRAPH_CHARACTERS] = repeated_characters / text_characters
    row[_LONGEST_LINE] = longest
    row[_MEAN_LINE] = total / max(all_lines, 1)


@kernel
def _measure_documents(
    data: Bytes, offsets: Places, flags: Bytes, begins: Flags, room: int, table: Hashes, rows: Shares
) -> None:
    hashes, grams = np.empty(room, np.uint64), np.empty(room, np.uint64)
    starts, stops = np.empty(room, np.int64), np.empty(room, np.int64)
    kept, slots = np.empty(room, np.int64), np.empty(room, np.int64)
    for d in range(rows.shape[0]):
        row = rows[d]
        words = _measure_words(data, offsets[d], offsets[d + 1], flags, begins, hashes, starts, stops, row)
        _measure_repeated_grams(words, hashes, starts, stops, grams, kept, slots, table, row)
        _measure_lines(data, offsets[d], offsets[d + 1], flags, hashes, starts, table, row)


def measure_text(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], begins: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Measure documents, concatenated as in an Arrow string column.

    Args:
        data: UTF-8 bytes of all documents.
        offsets: document d is bytes [offsets[d], offsets[d + 1]); one longer than the number of documents.
        begins: result of `segmentation.mark_words` for the same documents.

    Returns:
        `float64[documents, len(STATISTICS)]`; integers are exact. Scratch memory: about 80 bytes for each byte of the
        largest document, allocated only when touched.
    """
    rows = np.zeros((len(offsets) - 1, len(STATISTICS)), dtype=np.float64)
    room = scratch_size(longest_text(offsets))
    _measure_documents(
        read_only(data), read_only(offsets), character_flags(), read_only(begins), room, table_for(room), rows
    )
    return rows


def measure_string(text: str) -> dict[str, float]:
    """Measure one text; return its statistics by name."""
    data = text.encode()
    array, offsets = np.frombuffer(data, dtype=np.uint8), np.array([0, len(data)], dtype=np.int64)
    row = measure_text(array, offsets, mark_words(array, offsets))[0]
    return {name: float(value) for name, value in zip(STATISTICS, row, strict=True)}
