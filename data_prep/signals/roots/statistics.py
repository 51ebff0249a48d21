"""Statistics of the filters of ROOTS, by language, in one compiled pass over the characters of a text.

**Word.** A part between blanks, tabs and line feeds, in lower case and then without special characters at its ends
(ASCII punctuation and digits, white space, emoji, and the signs that ROOTS lists); a part of special characters only is
no word. ROOTS lists a few letters in one case only; it counts and removes words in their original case. In Chinese
ROOTS uses a trained tokenizer to find words; here they are those of `segmentation`, in all scripts without spaces. In
Chinese and Vietnamese, pairs of words are looked up in the lists too.

**Text.** All kinds of blanks are one; if the parameters of the language require it, words with parts of a URL and
overlong words are removed, and the others are joined by one blank, tab or line feed. All ratios refer to that text.

**Character repetition.** Sum of the largest counts of character n-grams, as a share of all occurrences; as many counts
as the smaller of the root of the number of distinct n-grams and the number of those that occur more than once. **Word
repetition.** Occurrences of word n-grams that occur more than once, as a share of all.

Source: Laurençon et al. 2022, arXiv:2303.03915; bigscience-workshop/data-preparation at 9d05884,
01b_oscar_cleaning_and_filtering/filtering.py. Equality is equality of 64-bit hashes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.kernels.characters import TABLE_SIZE, decode, is_ascii_letter, lower_case
from data_prep.kernels.counting import clear, count, occurrences, sort, table_for
from data_prep.kernels.kernel import (
    Bytes,
    Flags,
    Hashes,
    Places,
    Points,
    Shares,
    inlined,
    kernel,
    longest_text,
    part,
    read_only,
    scratch_size,
)
from data_prep.kernels.machine_words import at, equal_of_64, lowest
from data_prep.signals.roots.parameters import DEFAULT, PARAMETERS

ROOTS_STATISTICS = (
    "roots_word_count",
    "roots_character_repetition",
    "roots_word_repetition",
    "roots_special_character_share",
    "roots_stop_word_share",  # 1 if there is no list for the language
    "roots_flagged_word_share",  # 0 if there is no list for the language
)
"""Columns of `measure_roots`, in this order."""

_WORDS = ROOTS_STATISTICS.index("roots_word_count")
_CHARACTER_REPETITION = ROOTS_STATISTICS.index("roots_character_repetition")
_WORD_REPETITION = ROOTS_STATISTICS.index("roots_word_repetition")
_SPECIAL_CHARACTERS = ROOTS_STATISTICS.index("roots_special_character_share")
_STOP_WORDS = ROOTS_STATISTICS.index("roots_stop_word_share")
_FLAGGED_WORDS = ROOTS_STATISTICS.index("roots_flagged_word_share")

_REMOVES, _LONGEST_WORD, _CHARACTER_GRAM, _WORD_GRAM, _JOINT, _LISTED = range(6)
"""Columns of `_language_settings`."""

_WORDS_FILE = Path(__file__).with_name("words.json")
_BLANK, _TAB, _LINE_FEED, _SPECIAL, _SPECIAL_IN_LOWER_CASE = 1, 2, 4, 8, 16
_SEPARATOR = _BLANK | _TAB | _LINE_FEED
# as uniform_whitespace of ROOTS has them
_BLANKS = (0x20, 0x84, 0xA0, 0x2002, 0x2003, 0x2005, 0x2008, 0x2009, 0x200A, 0x202F, 0x3000, 0xFFFC)
_STOP, _FLAGGED = 1, 2
_FILTER_SHIFT = 50
"""Number of low bits of a hash that the index into a filter ignores."""
_BUCKET = 4
_PRIME = np.uint64(0x00000100000001B3)
_BASIS = np.uint64(0xCBF29CE484222325)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_GRAM_FACTOR = np.uint64(0xD6E8FEB86659FD93)


@lru_cache(maxsize=1)
def _word_lists() -> dict[str, Any]:
    lists: dict[str, Any] = json.loads(_WORDS_FILE.read_text(encoding="utf-8"))
    return lists


@lru_cache(maxsize=1)
def _kinds() -> npt.NDArray[np.uint8]:
    """Return the class of each code point in ROOTS: `uint8[TABLE_SIZE]`."""
    kinds = np.zeros(TABLE_SIZE, dtype=np.uint8)
    for start, stop in _word_lists()["special_characters"]:
        kinds[start:stop] |= _SPECIAL
    lower = lower_case()
    kinds |= ((kinds[lower] & _SPECIAL) != 0) * np.uint8(_SPECIAL_IN_LOWER_CASE)
    kinds[list(_BLANKS)] |= _BLANK
    kinds[0x09] |= _TAB
    kinds[0x0A] |= _LINE_FEED
    kinds.flags.writeable = False
    return kinds


def _word_hash(word: str, language: int) -> int:
    value = ((int(_BASIS) ^ language) * int(_PRIME)) & 0xFFFFFFFFFFFFFFFF
    for character in word:
        value = ((value ^ ord(character)) * int(_PRIME)) & 0xFFFFFFFFFFFFFFFF
    return value | 1


def _bucket(key: int) -> int:
    return ((key * int(_MULTIPLIER)) & 0xFFFFFFFFFFFFFFFF) >> 40


@lru_cache(maxsize=1)
def _languages() -> tuple[str, ...]:
    """Return the languages with parameters or lists, numbered by index; 0 is any other language."""
    lists = _word_lists()
    return ("", *sorted(PARAMETERS.keys() | lists["stop_words"].keys() | lists["flagged_words"].keys()))


@lru_cache(maxsize=1)
def _listed_words() -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
    """Return a filter of hashes in no list, and a table of all lists in buckets: whether a word is a stop word,
    flagged, or both, by hash of language and word."""
    lists = _word_lists()
    marks: dict[int, int] = {}
    for mark, name in ((_STOP, "stop_words"), (_FLAGGED, "flagged_words")):
        for language, words in lists[name].items():
            number = _languages().index(language)
            for word in words:
                key = _word_hash(word, number)
                marks[key] = marks.get(key, 0) | mark
    bits = len(marks).bit_length()
    while max(Counter(_bucket(key) & ((1 << bits) - 1) for key in marks).values()) > _BUCKET:
        bits += 1
    keys, values = np.zeros((1 << bits, _BUCKET), dtype=np.uint64), np.zeros((1 << bits, _BUCKET), dtype=np.uint8)
    for key, mark in sorted(marks.items()):
        bucket = _bucket(key) & ((1 << bits) - 1)
        place = int(np.count_nonzero(keys[bucket]))
        keys[bucket, place], values[bucket, place] = key, mark
    may_be_listed = np.zeros(1 << (64 - _FILTER_SHIFT), dtype=np.bool_)
    may_be_listed[[key >> _FILTER_SHIFT for key in marks]] = True
    for array in (may_be_listed, keys, values):
        array.flags.writeable = False
    return may_be_listed, keys, values


@lru_cache(maxsize=1)
def _language_settings() -> npt.NDArray[np.int64]:
    """Return a row for each language; the separator of pairs is a code point, 0 for none, -1 if pairs are not looked
    up."""
    lists = _word_lists()
    rows = []
    for language in _languages():
        p = PARAMETERS.get(language, DEFAULT)
        joint = -1 if p.pairs_joined_by is None else ord(p.pairs_joined_by) if p.pairs_joined_by else 0
        listed = _STOP * (language in lists["stop_words"]) + _FLAGGED * (language in lists["flagged_words"])
        rows.append((p.removes_words, p.longest_word, p.character_gram, p.word_gram, joint, listed))
    settings = np.array(rows, dtype=np.int64)
    settings.flags.writeable = False
    return settings


class _Tables(NamedTuple):
    """Tables of characters and words, see `_kinds`, `lower_case` and `_listed_words`."""

    kinds: Bytes
    lower: Points
    may_be_listed: Flags
    listed_keys: npt.NDArray[np.uint64]
    listed_marks: npt.NDArray[np.uint8]


class _Scratch(NamedTuple):
    """Scratch arrays for one text."""

    points: Points
    """Characters that are kept so far."""
    is_begin: Flags
    """Whether `segmentation` begins a word at each of them."""
    words: Hashes
    repeated: Places
    """Slots of n-grams that occur more than once."""
    histogram: Places
    table: Hashes


@inlined
def _marks_of(key: np.uint64, tables: _Tables) -> np.uint8:
    # Without branches: whether a word is listed is unpredictable.
    keys, all_marks = tables.listed_keys, tables.listed_marks
    bucket = np.int64((key * _MULTIPLIER) >> np.uint64(40)) & np.int64(keys.shape[0] - 1)
    bucket *= np.int64(
        tables.may_be_listed[key >> np.uint64(_FILTER_SHIFT)]
    )  # unlisted words access a slot that is in the cache
    marks = np.uint8(0)
    for place in range(_BUCKET):
        marks |= all_marks[bucket, place] * np.uint8(keys[bucket, place] == key)
    return marks


@inlined
def _pair_of_64(data: Bytes, i: int, one: int, two: int) -> np.uint64:
    """Return which of the 64 bytes from i on are `one` followed by `two`."""
    return equal_of_64(data, i, np.uint8(one)) & equal_of_64(data, i + 1, np.uint8(two))


@part
def _next_address_pair(data: Bytes, i: int, end: int) -> int:
    """Find the first position in [i, end) of a pair of bytes that is in a part of a URL, or `end`."""
    while i + 1 < end and i + 65 <= data.shape[0]:
        pairs = (
            _pair_of_64(data, i, 0x2F, 0x2F)  # //
            | _pair_of_64(data, i, 0x77, 0x77)  # www
            | _pair_of_64(data, i, 0x2E, 0x63)  # .com
            | _pair_of_64(data, i, 0x74, 0x70)  # http
            | _pair_of_64(data, i, 0x68, 0x72)  # href
        )
        if pairs:
            place = i + np.int64(lowest(pairs))
            return place if place + 1 < end else end
        i += 64
    while i + 1 < end:
        one, two = at(data, i), at(data, i + 1)
        if (
            (one == two and (one == 0x2F or one == 0x77))
            or (one == 0x2E and two == 0x63)
            or (one == 0x74 and two == 0x70)
            or (one == 0x68 and two == 0x72)
        ):
            return i
        i += 1
    return end


@part
def _has_address_part(points: Points, first: int, last: int) -> bool:
    """Return whether characters [first, last) contain http, www, .com, href or //."""
    for i in range(first, last - 1):
        point = at(points, i)
        if point == 0x2F:
            if at(points, i + 1) == 0x2F:
                return True
        elif point == 0x77 and i + 2 < last:
            if at(points, i + 1) == 0x77 and at(points, i + 2) == 0x77:
                return True
        elif point == 0x2E and i + 3 < last:
            if at(points, i + 1) == 0x63 and at(points, i + 2) == 0x6F and at(points, i + 3) == 0x6D:
                return True
        elif point == 0x68 and i + 3 < last:
            if at(points, i + 1) == 0x74 and at(points, i + 2) == 0x74 and at(points, i + 3) == 0x70:
                return True
            if at(points, i + 1) == 0x72 and at(points, i + 2) == 0x65 and at(points, i + 3) == 0x66:
                return True
    return False


@part
def _character_repetition(start: int, stop: int, gram: int, scratch: _Scratch) -> float:
    """Return the share of occurrences of n-grams of points[start:stop] that are of the most frequent ones."""
    points, repeated, table = scratch.points, scratch.repeated, scratch.table
    entries = stop - start - gram + 1
    if entries <= 0:
        return 0.0
    mask = clear(entries, table)
    value, power = np.uint64(0), np.uint64(1)  # a rolling polynomial hash
    for k in range(start, start + gram):
        value = value * _GRAM_FACTOR + np.uint64(points[k]) + np.uint64(1)
        power *= _GRAM_FACTOR
    one = np.uint64(1)
    leaving, coming = points[start:], points[start + gram :]
    distinct, many = np.uint64(0), np.uint64(0)
    for k in range(np.uint64(entries)):  # unsigned, see `count`
        slot, times = count((value ^ (value >> np.uint64(32))) * _MULTIPLIER, table, mask)
        distinct += np.uint64(times == 1)
        repeated[many] = slot  # kept only at the second occurrence, so that each n-gram is listed once
        many += np.uint64(times == 2)
        value = value * _GRAM_FACTOR + (np.uint64(coming[k]) + one - power * (np.uint64(leaving[k]) + one))
    total = np.int64(0)
    for k in range(many):
        times = occurrences(repeated[k], table)
        repeated[k] = times
        total += times
    taken = np.int64(np.sqrt(distinct))
    if taken < np.int64(many):
        total = _sum_of_largest(repeated, np.int64(many), taken, scratch.histogram)
    return total / entries


@part
def _word_repetition(word_count: int, gram: int, scratch: _Scratch) -> float:
    """Return the share of occurrences of n-grams of words[:word_count] that occur more than once."""
    words, repeated, table = scratch.words, scratch.repeated, scratch.table
    entries = word_count - gram + 1
    if entries <= 0:
        return 0.0
    mask = clear(entries, table)
    many = 0
    for k in range(entries):
        value = np.uint64(0)
        for j in range(gram):
            value = (value ^ (value >> np.uint64(29))) * _MULTIPLIER + words[k + j]
        value ^= value >> np.uint64(32)
        repeated[many], times = count(value * _GRAM_FACTOR, table, mask)
        many += times == 2
    total = 0
    for k in range(many):
        total += occurrences(repeated[k], table)
    return total / entries


@part
def _sum_of_largest(values: Places, size: int, taken: int, histogram: Places) -> np.int64:
    """Sum the largest of values[:size], which are reordered; small values are counted, the few others sorted."""
    for value in range(histogram.shape[0]):
        histogram[value] = 0
    large = 0
    total = np.int64(0)
    for k in range(size):
        value = values[k]
        if value < histogram.shape[0]:
            histogram[value] += 1
        else:
            values[large] = value
            large += 1
            total += value
    if large > taken:
        sort(values, np.int64(0), large)
        total = np.int64(0)
        for k in range(large - taken, large):
            total += values[k]
        return total
    left = np.int64(taken - large)
    value = histogram.shape[0] - 1
    while left:
        here = min(left, histogram[value])
        total += here * value
        left -= here
        value -= 1
    return total


@inlined
def _read_character(data: Bytes, i: int, end: int, kinds: Bytes) -> tuple[int, int, np.uint8]:
    """Return the code point at byte i, where the next one begins, and its class."""
    if at(data, i) < 0x80:  # a predictable branch, which does not depend on the size from `decode`
        return np.int64(at(data, i)), i + 1, at(kinds, at(data, i))
    point, size = decode(data, i, end)
    return point, i + size, at(kinds, point) if point < kinds.shape[0] else np.uint8(0)


@inlined
def _folded(point: int, lower: Points) -> np.uint64:
    """Return a code point in lower case."""
    return np.uint64(at(lower, point)) if point < lower.shape[0] else np.uint64(point)


@inlined
def _read_part(
    data: Bytes,
    i: int,
    end: int,
    begins: Flags,
    has_begins: bool,
    basis: np.uint64,
    start: int,
    tables: _Tables,
    scratch: _Scratch,
) -> tuple[int, int, int, int, int, np.uint64, bool, bool]:
    """Append the part between separators that begins at byte i to the characters from points[start] on.

    Returns:
        Where it ends in the text and in the characters; half-open range of characters from the first to the last that
        is not special in lower case, -1 if there is none; number of special characters in their original case; hash of
        that range; whether a word begins inside; whether a character is special in one case only.
    """
    kinds, lower, points, is_begin = tables.kinds, tables.lower, scratch.points, scratch.is_begin
    stop, special, is_divided, in_one_case = start, 0, False, np.uint8(0)
    first, last = np.int64(-1), start
    running = whole = basis  # hashes from the first non-special character to here, and to the last such character
    while i < end:
        if not has_begins and is_ascii_letter(at(data, i)):  # ASCII letters in a row: most of a text
            first = first if first >= 0 else stop
            while i < end and is_ascii_letter(at(data, i)):
                points[np.uint64(stop)] = at(data, i)
                running = (running ^ np.uint64(at(data, i) | 0x20)) * _PRIME
                stop += 1
                i += 1
            last, whole = stop, running
            if i >= end:
                break
        point, following, kind = _read_character(data, i, end, kinds)
        if kind & _SEPARATOR:
            break
        points[np.uint64(stop)] = point
        stop += 1
        if has_begins:
            is_begin[np.uint64(stop - 1)] = at(begins, i)
            is_divided |= at(begins, i)
        special += (kind & _SPECIAL) != 0
        in_one_case |= (kind ^ (kind >> np.uint8(1))) & np.uint8(_SPECIAL)
        is_special = (kind & _SPECIAL_IN_LOWER_CASE) != 0
        if first >= 0 or not is_special:
            running = (running ^ _folded(point, lower)) * _PRIME
            first = first if first >= 0 else stop - 1
            if not is_special:
                last, whole = stop, running
        i = following
    return i, stop, first, last, special, whole, is_divided, in_one_case != 0


@inlined
def _end_of_word(
    k: int, last: int, is_divided: bool, whole: np.uint64, basis: np.uint64, tables: _Tables, scratch: _Scratch
) -> tuple[int, np.uint64]:
    """Return the end of the word that begins with points[k], at most `last`, and its hash."""
    if not is_divided:
        return last, whole
    points, is_begin, lower = scratch.points, scratch.is_begin, tables.lower
    value, first = basis, k
    while k < last and not (k > first and at(is_begin, k)):
        value = (value ^ _folded(at(points, k), lower)) * _PRIME
        k += 1
    return k, value


@inlined
def _hash_on(value: np.uint64, first: int, last: int, tables: _Tables, scratch: _Scratch) -> np.uint64:
    """Extend the hash `value` by points[first:last]."""
    points, lower = scratch.points, tables.lower
    for k in range(first, last):
        value = (value ^ _folded(at(points, k), lower)) * _PRIME
    return value


@part
def _trimmed(start: int, stop: int, kind: int, kinds: Bytes, points: Points) -> tuple[int, int]:
    """Return the half-open range from the first to the last of points[start:stop] that is not of that class."""
    while start < stop and kinds[min(np.int64(points[stop - 1]), kinds.shape[0] - 1)] & kind:
        stop -= 1
    while start < stop and kinds[min(np.int64(points[start]), kinds.shape[0] - 1)] & kind:
        start += 1
    return start, stop


@part
def _measure_document(
    data: Bytes,
    begin: int,
    end: int,
    begins: Flags,
    number: int,
    setting: Places,
    tables: _Tables,
    scratch: _Scratch,
    row: Shares,
) -> None:
    removes, longest_word, joint, listed = (
        setting[_REMOVES] != 0,
        setting[_LONGEST_WORD],
        setting[_JOINT],
        setting[_LISTED],
    )
    kinds, points, words = tables.kinds, scratch.points, scratch.words
    basis = (_BASIS ^ np.uint64(number)) * _PRIME
    length, word_count = np.int64(0), np.int64(0)
    more = np.int64(0)  # words only in the original case, less those only in lower case
    special, stop_words, flagged_words, separators = 0, 0, 0, 0
    has_begins = False
    for k in range(begin, end):
        has_begins |= at(begins, k)
    address = _next_address_pair(data, begin, end) if removes else end
    before, has_before = basis, False  # the unfinished hash of the previous word, for pairs
    i = begin
    while i < end:
        while i < end:
            point, following, kind = _read_character(data, i, end, kinds)
            separator = kind & _SEPARATOR
            if not separator:
                break
            separators |= separator
            if not removes:
                points[np.uint64(length)] = 0x20 if separator == _BLANK else point
                special += 1
                length += 1
            i = following
        joined = length
        if removes and length and separators:
            points[np.uint64(length)] = 0x0A if separators & _LINE_FEED else 0x09 if separators & _TAB else 0x20
            joined = length + 1
        i, stop, first, last, part_special, whole, is_divided, in_one_case = _read_part(
            data, i, end, begins, has_begins, basis, joined, tables, scratch
        )
        if stop == joined:
            break
        if first < 0:
            first = last = joined
        as_it_is = (first, last)
        if in_one_case:
            as_it_is = _trimmed(joined, stop, _SPECIAL, kinds, points)
        inside = as_it_is[1] - as_it_is[0]
        is_address = False
        if address < i:
            is_address = _has_address_part(points, as_it_is[0], as_it_is[1])
            address = _next_address_pair(data, i, end)
        if removes and (is_address or (stop - joined > longest_word and not 0 < inside <= longest_word)):
            continue
        more += np.int64(inside > 0) - np.int64(last > first)
        special += part_special + (joined - length)
        length, separators = stop, 0
        k = first
        while k < last:
            from_k = k
            k, value = _end_of_word(from_k, last, is_divided, whole, basis, tables, scratch)
            if listed:
                marks = _marks_of(value | np.uint64(1), tables)
                stop_words += (marks & _STOP) != 0
                flagged_words += (marks & _FLAGGED) != 0
            if joint >= 0:
                if has_before:
                    pair = (before ^ np.uint64(joint)) * _PRIME if joint else before
                    marks = _marks_of(_hash_on(pair, from_k, k, tables, scratch) | np.uint64(1), tables)
                    stop_words += (marks & _STOP) != 0
                    flagged_words += (marks & _FLAGGED) != 0
                before, has_before = value, True
            words[np.uint64(word_count)] = value
            word_count += 1
    start = 0
    if not removes:  # white space at the ends is not part of the text
        start, stop = _trimmed(0, length, _SEPARATOR, kinds, points)
        special -= start + length - stop
        length = stop
    divisor = max(word_count, 1)
    row[_WORDS] = word_count + more
    row[_SPECIAL_CHARACTERS] = special / max(length - start, 1)
    row[_STOP_WORDS] = min(stop_words / divisor, 1.0) if listed & _STOP else 1.0
    row[_FLAGGED_WORDS] = min(flagged_words / divisor, 1.0) if listed & _FLAGGED else 0.0
    row[_CHARACTER_REPETITION] = _character_repetition(start, length, setting[_CHARACTER_GRAM], scratch)
    row[_WORD_REPETITION] = _word_repetition(word_count, setting[_WORD_GRAM], scratch)


@kernel
def _measure(
    data: Bytes,
    offsets: Places,
    begins: Flags,
    numbers: Places,
    settings: Places,
    tables: _Tables,
    room: int,
    table: Hashes,
    rows: Shares,
) -> None:
    scratch = _Scratch(
        np.empty(room, np.uint32),
        np.empty(room, np.bool_),
        np.empty(room, np.uint64),
        np.empty(room, np.int64),
        np.empty(256, np.int64),
        table,
    )
    for d in range(rows.shape[0]):
        number = numbers[d]
        setting = settings[number]
        _measure_document(data, offsets[d], offsets[d + 1], begins, number, setting, tables, scratch, rows[d])


def measure_roots(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    begins: npt.NDArray[np.bool_],
    languages: Sequence[str],
) -> npt.NDArray[np.float64]:
    """Measure documents, concatenated as in an Arrow string column: `float64[documents, len(ROOTS_STATISTICS)]`.

    Args:
        offsets: document d is bytes [offsets[d], offsets[d + 1]).
        begins: result of `segmentation.mark_words` for the same documents.
        languages: ISO 639 code of each document, which selects its parameters.
    """
    numbers_of = {language: number for number, language in enumerate(_languages())}
    numbers = np.array([numbers_of.get(language, 0) for language in languages], dtype=np.int64)
    rows = np.zeros((len(offsets) - 1, len(ROOTS_STATISTICS)), dtype=np.float64)
    room = scratch_size(longest_text(offsets))
    _measure(
        read_only(data),
        read_only(offsets),
        read_only(begins),
        read_only(numbers),
        _language_settings(),
        _Tables(_kinds(), lower_case(), *_listed_words()),
        room,
        table_for(room),
        rows,
    )
    return rows
