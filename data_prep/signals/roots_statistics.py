"""What the filters of ROOTS ask, by language, in one compiled pass over the characters of a text.

**Word.** A part between blanks, tabs and line feeds, without special characters at its ends (ASCII punctuation and
digits, white space, emoji, and the signs that ROOTS lists), in lower case; a part of special characters alone is none.
In Chinese ROOTS asks a trained tokenizer for words; ours are those of `segmentation`, in all scripts without spaces.
Its lists are asked for pairs of words as well in Chinese and Vietnamese.

**Text.** Kinds of blanks are one blank; where the parameters of the language say so, words with parts of an address and
overlong words are taken out, and what is left is joined by one blank, tab or line feed. All ratios are of that text.

**Character repetition.** Of the counts of all character n-grams, the largest min(root of the number of distinct ones,
number of those that occur more than once), as a share of all occurrences. **Word repetition.** Occurrences of word
n-grams that occur more than once, as a share of all.

Source: Laurençon et al. 2022, arXiv:2303.03915; bigscience-workshop/data-preparation at 9d05884,
01b_oscar_cleaning_and_filtering/filtering.py. Equality is equality of 64-bit hashes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from data_prep.machine_words import at, equal_of_64, lowest, read_only
from data_prep.signals.characters import TABLE_SIZE, decode, is_ascii_letter, lower_case
from data_prep.signals.counting import clear, count, occurrences, table_for
from data_prep.signals.roots_parameters import DEFAULT, PARAMETERS

ROOTS_STATISTICS = (
    "roots_word_count",
    "roots_character_repetition",
    "roots_word_repetition",
    "roots_special_character_share",
    "roots_stop_word_share",  # 1 where there is no list for the language
    "roots_flagged_word_share",  # 0 where there is no list for the language
)
"""Columns of `measure_roots`, in this order."""

_WORDS_FILE = Path(__file__).with_name("roots_words.json")
_BLANK, _TAB, _LINE_FEED, _SPECIAL = 1, 2, 4, 8
# as uniform_whitespace of ROOTS has them
_BLANKS = (0x20, 0x84, 0xA0, 0x2002, 0x2003, 0x2005, 0x2008, 0x2009, 0x200A, 0x202F, 0x3000, 0xFFFC)
_STOP, _FLAGGED = 1, 2
_FILTER_SHIFT = 50
"""A filter has a place for each value of the bits of a hash above these."""
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
    """What each code point is to ROOTS: `uint8[TABLE_SIZE]`."""
    kinds = np.zeros(TABLE_SIZE, dtype=np.uint8)
    for start, stop in _word_lists()["special_characters"]:
        kinds[start:stop] |= _SPECIAL
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
    """Languages with parameters or lists; the number of one is its place, 0 is every other."""
    lists = _word_lists()
    return ("", *sorted(PARAMETERS.keys() | lists["stop_words"].keys() | lists["flagged_words"].keys()))


@lru_cache(maxsize=1)
def _listed_words() -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
    """A filter of what is in no list, and a table of all lists in buckets: hash of language and word -> stop word,
    flagged word or both."""
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
    """A row of each language: removes words, longest word, n of characters and of words, joint of pairs, lists."""
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


@numba.njit(nogil=True, cache=True)
def _marks_of(key, may_be_listed, listed_keys, listed_marks):  # type: ignore[no-untyped-def]
    # Without branches: whether a word is listed cannot be foretold.
    bucket = np.int64((key * _MULTIPLIER) >> np.uint64(40)) & np.int64(listed_keys.shape[0] - 1)
    bucket *= np.int64(may_be_listed[key >> np.uint64(_FILTER_SHIFT)])  # what is in no list looks where it is cached
    marks = np.uint8(0)
    for place in range(_BUCKET):
        marks |= listed_marks[bucket, place] * np.uint8(listed_keys[bucket, place] == key)
    return marks


@numba.njit(nogil=True, cache=True, inline="always")
def _pair_of_64(data, i, one, two):  # type: ignore[no-untyped-def]
    """Which of the 64 bytes from i on are `one` and stand before `two`."""
    return equal_of_64(data, i, np.uint8(one)) & equal_of_64(data, i + 1, np.uint8(two))


@numba.njit(nogil=True, cache=True)
def _next_address_pair(data, i, end):  # type: ignore[no-untyped-def]
    """The first place in [i, end) of two bytes of which each part of an address holds some, or `end`."""
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


@numba.njit(nogil=True, cache=True)
def _has_address_part(points, first, last):  # type: ignore[no-untyped-def]
    """Whether characters [first, last) hold http, www, .com, href or //."""
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


@numba.njit(nogil=True, cache=True)
def _character_repetition(points, start, stop, gram, table, repeated, histogram):  # type: ignore[no-untyped-def]
    """Share of the occurrences of n-grams of points[start:stop] that are of the most frequent ones."""
    entries = stop - start - gram + 1
    if entries <= 0:
        return 0.0
    mask = clear(entries, table)
    value, power = np.uint64(0), np.uint64(1)  # a polynomial that rolls on
    for k in range(start, start + gram):
        value = value * _GRAM_FACTOR + np.uint64(points[k]) + np.uint64(1)
        power *= _GRAM_FACTOR
    one = np.uint64(1)
    leaving, coming = points[start:], points[start + gram :]
    distinct, many = np.uint64(0), np.uint64(0)
    for k in range(np.uint64(entries)):  # without a sign: see `count`
        slot, times = count((value ^ (value >> np.uint64(32))) * _MULTIPLIER, table, mask)
        distinct += np.uint64(times == 1)
        repeated[many] = slot  # stays there if it is the second time, at which an n-gram gets here once
        many += np.uint64(times == 2)
        value = value * _GRAM_FACTOR + (np.uint64(coming[k]) + one - power * (np.uint64(leaving[k]) + one))
    for k in range(many):
        repeated[k] = occurrences(repeated[k], table)
    many = np.int64(many)
    taken = min(np.int64(np.sqrt(distinct)), many)
    if taken < many:
        return _sum_of_largest(repeated, many, taken, histogram) / entries
    return repeated[:many].sum() / entries


@numba.njit(nogil=True, cache=True)
def _word_repetition(words, word_count, gram, table, repeated):  # type: ignore[no-untyped-def]
    """Share of the occurrences of n-grams of words[:word_count] that occur more than once."""
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


@numba.njit(nogil=True, cache=True)
def _sum_of_largest(values, size, taken, histogram):  # type: ignore[no-untyped-def]
    """Sum of the largest of values[:size], which are moved about; small values are counted, the few others sorted."""
    histogram[:] = 0
    large = 0
    for k in range(size):
        if values[k] < histogram.shape[0]:
            histogram[values[k]] += 1
        else:
            values[large] = values[k]
            large += 1
    if large > taken:
        values[:large].sort()
        return values[large - taken : large].sum()
    total = values[:large].sum()
    left = taken - large
    value = histogram.shape[0] - 1
    while left:
        here = min(left, histogram[value])
        total += here * value
        left -= here
        value -= 1
    return total


@numba.njit(nogil=True, cache=True)
def _measure(data, offsets, begins, numbers, settings, kinds, lower, may_be_listed, listed_keys, listed_marks, rows):  # type: ignore[no-untyped-def]
    longest = np.int64(0)
    for d in range(rows.shape[0]):
        longest = max(longest, offsets[d + 1] - offsets[d])
    points = np.empty(longest + 4, np.uint32)
    is_begin = np.empty(longest + 4, np.bool_)
    words = np.empty(longest + 4, np.uint64)
    repeated = np.empty(longest + 4, np.int64)
    histogram = np.empty(256, np.int64)
    table = table_for(longest)
    for d in range(rows.shape[0]):
        _measure_document(
            data,
            offsets[d],
            offsets[d + 1],
            begins,
            numbers[d],
            settings[numbers[d]],
            kinds,
            lower,
            may_be_listed,
            listed_keys,
            listed_marks,
            points,
            is_begin,
            words,
            repeated,
            histogram,
            table,
            rows[d],
        )


@numba.njit(nogil=True, cache=True)
def _measure_document(  # type: ignore[no-untyped-def]
    data,
    begin,
    end,
    begins,
    number,
    setting,
    kinds,
    lower,
    may_be_listed,
    listed_keys,
    listed_marks,
    points,
    is_begin,
    words,
    repeated,
    histogram,
    table,
    row,
):
    removes, longest_word, character_gram, word_gram = setting[0] != 0, setting[1], setting[2], setting[3]
    joint, listed = setting[4], setting[5]
    basis = (_BASIS ^ np.uint64(number)) * _PRIME
    length, word_count, special = 0, 0, 0
    stop_words, flagged_words = 0, 0
    separators = 0
    has_begins = False
    for k in range(begin, end):
        has_begins |= at(begins, k)
    address = _next_address_pair(data, begin, end) if removes else end
    before, has_before = basis, False  # the hash of the word before, not yet closed, for pairs
    i = begin
    while i < end:
        # one part between separators goes to points[start:length]
        part_separators = 0
        while i < end:
            if at(data, i) < 0x80:  # predicted, where the size of `decode` would have to be waited for
                point, following, kind = np.int64(at(data, i)), i + 1, at(kinds, at(data, i))
            else:
                point, size = decode(data, i, end)
                following = i + size
                kind = at(kinds, point) if point < kinds.shape[0] else np.uint8(0)
            separator = kind & (_BLANK | _TAB | _LINE_FEED)
            if not separator:
                break
            part_separators |= separator
            if not removes:
                points[np.uint64(length)] = 0x20 if separator == _BLANK else point
                special += 1
                length += 1
            i = following
        separators |= part_separators
        joined = length
        if removes and length and separators:
            points[np.uint64(length)] = 0x0A if separators & _LINE_FEED else 0x09 if separators & _TAB else 0x20
            joined = length + 1
        stop = joined
        first, last = np.int64(-1), joined
        part_special, is_divided = 0, False
        running = whole = basis  # hashes from the first character that is not special to here, and to the last such
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
            if at(data, i) < 0x80:
                point, following, kind = np.int64(at(data, i)), i + 1, at(kinds, at(data, i))
            else:
                point, size = decode(data, i, end)
                following = i + size
                kind = at(kinds, point) if point < kinds.shape[0] else np.uint8(0)
            if kind & (_BLANK | _TAB | _LINE_FEED):
                break
            points[np.uint64(stop)] = point
            stop += 1
            if has_begins:
                is_begin[np.uint64(stop - 1)] = at(begins, i)
                is_divided |= at(begins, i)
            is_special = (kind & _SPECIAL) != 0
            part_special += is_special
            if first >= 0 or not is_special:
                folded = np.uint64(at(lower, point)) if point < lower.shape[0] else np.uint64(point)
                running = (running ^ folded) * _PRIME
                first = first if first >= 0 else stop - 1
                if not is_special:
                    last, whole = stop, running
            i = following
        if stop == joined:
            break
        if first < 0:
            first = last = joined
        is_address = False
        if address < i:
            is_address = _has_address_part(points, first, last)
            address = _next_address_pair(data, i, end)
        if removes and (is_address or (stop - joined > longest_word and not 0 < last - first <= longest_word)):
            continue
        special += part_special + (joined - length)
        length = stop
        separators = 0
        k = first
        while k < last:
            value = basis
            from_k = k
            if is_divided:
                while k < last and not (k > from_k and at(is_begin, k)):
                    point = at(points, k)
                    folded = np.uint64(at(lower, point)) if point < lower.shape[0] else np.uint64(point)
                    value = (value ^ folded) * _PRIME
                    k += 1
            else:
                value, k = whole, last
            if listed:
                marks = _marks_of(value | np.uint64(1), may_be_listed, listed_keys, listed_marks)
                stop_words += (marks & _STOP) != 0
                flagged_words += (marks & _FLAGGED) != 0
            if joint >= 0:
                if has_before:
                    pair = (before ^ np.uint64(joint)) * _PRIME if joint else before
                    for q in range(from_k, k):
                        point = at(points, q)
                        folded = np.uint64(at(lower, point)) if point < lower.shape[0] else np.uint64(point)
                        pair = (pair ^ folded) * _PRIME
                    marks = _marks_of(pair | np.uint64(1), may_be_listed, listed_keys, listed_marks)
                    stop_words += (marks & _STOP) != 0
                    flagged_words += (marks & _FLAGGED) != 0
                before, has_before = value, True
            words[np.uint64(word_count)] = value
            word_count += 1
    if not removes:  # white space at the ends is no part of the text
        while length and kinds[min(points[length - 1], kinds.shape[0] - 1)] & (_BLANK | _TAB | _LINE_FEED):
            length -= 1
            special -= 1
        start = 0
        while start < length and kinds[min(points[start], kinds.shape[0] - 1)] & (_BLANK | _TAB | _LINE_FEED):
            start += 1
        special -= start
    else:
        start = 0
    row[0] = word_count
    row[3] = special / max(length - start, 1)
    divisor = max(word_count, 1)
    row[4] = min(stop_words / divisor, 1.0) if listed & _STOP else 1.0
    row[5] = min(flagged_words / divisor, 1.0) if listed & _FLAGGED else 0.0
    row[1] = _character_repetition(points, start, length, character_gram, table, repeated, histogram)
    row[2] = _word_repetition(words, word_count, word_gram, table, repeated)


def measure_roots(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    begins: npt.NDArray[np.bool_],
    languages: Sequence[str],
) -> npt.NDArray[np.float64]:
    """`float64[documents, len(ROOTS_STATISTICS)]` of documents that are concatenated as Arrow keeps a string column.

    Args:
        offsets: document d is bytes [offsets[d], offsets[d + 1]).
        begins: of `segmentation.mark_words` for the same documents.
        languages: ISO 639 code of each document, which says by what parameters it is measured.
    """
    numbers_of = {language: number for number, language in enumerate(_languages())}
    numbers = np.array([numbers_of.get(language, 0) for language in languages], dtype=np.int64)
    rows = np.zeros((len(offsets) - 1, len(ROOTS_STATISTICS)), dtype=np.float64)
    _measure(
        read_only(data),
        read_only(offsets),
        read_only(begins),
        read_only(numbers),
        _language_settings(),
        _kinds(),
        lower_case(),
        *_listed_words(),
        rows,
    )
    return rows
