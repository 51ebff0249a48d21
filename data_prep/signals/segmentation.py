"""Word boundaries in scripts that are written without spaces.

Chinese, Japanese, Thai and Khmer are divided by small linear models: a word begins where the sum of the weights of the
characters, pairs and triples around a position exceeds a bound. The form is that of BudouX (Google, Apache-2.0,
https://github.com/google/budoux), whose model of Thai words is read from its wheel. The other models are beside this
file (`segmenter_*.json`), trained by `tools/train_segmenter.py` on texts under free licences:

| | trained on | F1 of words | |---|---|---|
| Chinese | 0.7 million characters divided by jieba, 300,000 words of its dictionary by frequency^0.85 | 0.739 |
| Japanese | 0.26 million characters divided by Janome with the IPA dictionary | 0.831 |
| Khmer | 0.09 million characters of LibreOffice's help, which its translators divided with U+200B | 0.911 |
| Thai | BudouX | 0.740 |

Khmer was measured on a held-out tenth of the same help, the others on sentences of Universal Dependencies, whose
definition of a word differs from that of any tool (jieba 0.772 on the same sentences, Janome 0.925, PyThaiNLP's
dictionary 0.713). The figures of Chinese and Japanese are slightly optimistic: the sizes of the two models were chosen
on the same sentences.

Han letters are taken for Japanese in a document with at least one kana for 16 of them, else for Chinese. U+200B always
divides. In other unspaced scripts (Lao, Tibetan, Myanmar, ...) each letter with its marks is a word.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.kernels.characters import MARK, UNSPACED, character_flags, decode
from data_prep.kernels.kernel import (
    Bytes,
    Flags,
    Hashes,
    Places,
    Points,
    inlined,
    kernel,
    longest_text,
    part,
    read_only,
    scratch_size,
)
from data_prep.kernels.machine_words import EACH_BYTE, at, load_eight, lowest

WINDOWS = (
    ("UW1", -3, 1),
    ("UW2", -2, 1),
    ("UW3", -1, 1),
    ("UW4", 0, 1),
    ("UW5", 1, 1),
    ("UW6", 2, 1),
    ("BW1", -2, 2),
    ("BW2", -1, 2),
    ("BW3", 0, 2),
    ("TW1", -3, 3),
    ("TW2", -2, 3),
    ("TW3", -1, 3),
    ("TW4", 0, 3),
)
"""BudouX's features of a position: name, offset of the characters, and their number."""
_FIRST = np.array([first for _, first, _ in WINDOWS], dtype=np.int64)
_SIZES = np.array([size for _, _, size in WINDOWS], dtype=np.int64)
_REACH = 3
"""Number of characters on either side of a position that features use."""

MODELS = ("zh", "ja", "th", "km")
_ZH, _JA, _TH, _KM = range(4)
_BUDOUX = {"th": "th.json"}
_KANA_PART = 16
_FILTER_BITS = 1 << 20
_ZERO_WIDTH_SPACE = 0x200B
_LOWEST_BYTE = 0xE0
"""Smallest first byte of characters from U+0E00 on: of unspaced scripts, and of U+200B."""
_PRIME = np.uint64(0x00000100000001B3)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@kernel
def _key(points: Points, first: int, size: int, window: int, model: int) -> np.uint64:
    """Hash the characters of one window; never 0, which marks an empty slot."""
    value = np.uint64(model * 16 + window + 1) * _MULTIPLIER
    for k in range(first, first + size):
        value = (value ^ np.uint64(at(points, k))) * _PRIME
        value ^= value >> np.uint64(29)
    return (value * _MULTIPLIER) | np.uint64(1)


@part
def score(
    points: Points,
    count: int,
    place: int,
    model: int,
    filter_: Bytes,
    keys: Hashes,
    weights: npt.NDArray[np.int32],
) -> int:
    """Sum the weights of the windows around points[place], within its line, of points[:count]."""
    start, stop = place, place + 1
    while start > 0 and place - start < _REACH and at(points, start - 1) != 0x0A:
        start -= 1
    while stop < count and stop - place < _REACH and at(points, stop) != 0x0A:
        stop += 1
    mask = np.int64(keys.shape[0] - 1)
    total = 0
    for window in range(_FIRST.shape[0]):
        first = place + _FIRST[window]
        if first < start or first + _SIZES[window] > stop:
            continue
        key = _key(points, first, _SIZES[window], window, model)
        bit = np.int64(key >> np.uint64(20)) & (_FILTER_BITS - 1)
        # most windows have no weight, and the filter fits in the cache
        if not at(filter_, bit >> 3) & (1 << (bit & 7)):
            continue
        slot = np.int64(key >> np.uint64(40)) & mask
        while at(keys, slot) != key:
            if at(keys, slot) == np.uint64(0):
                break
            slot = (slot + 1) & mask
        if at(keys, slot) == key:
            total += at(weights, slot)
    return total


@part
def _script(point: int) -> int:
    """Return the model of a letter; that of Han and kana depends on the document."""
    if point < 0x0E80:
        return _TH
    if 0x1780 <= point < 0x1800:
        return _KM
    if point >= 0x2E80 and not 0xA9E0 <= point < 0xAAE0:
        return _ZH
    return -1


@part
def _is_kana(point: int) -> bool:
    return 0x3040 <= point < 0x3100 or 0x31F0 <= point < 0x3200 or 0xFF66 <= point < 0xFF9E


@inlined
def _first_unspaced(data: Bytes, begin: int, end: int, flags: Bytes) -> int:
    """Find the first letter of an unspaced script in [begin, end), or `end`."""
    i = begin
    while i < end:
        if i + 8 <= data.shape[0]:
            eight = load_eight(data, i)  # bytes whose three highest bits are set
            long = eight & (eight << np.uint64(1)) & (eight << np.uint64(2)) & (EACH_BYTE << np.uint64(7))
            if not long:
                i += 8
                continue
            i += np.int64(lowest(long)) >> 3
            if i >= end:
                break
        if at(data, i) >= _LOWEST_BYTE:
            point, _ = decode(data, i, end)
            if point < flags.shape[0] and (at(flags, point) & UNSPACED) != 0:
                return i
        i += 1
    return end


@kernel
def _mark_words(
    data: Bytes,
    offsets: Places,
    flags: Bytes,
    filter_: Bytes,
    keys: Hashes,
    weights: npt.NDArray[np.int32],
    biases: Places,
    room: int,
    begins: Flags,
) -> None:
    """Set begins[i] where byte i begins a word of an unspaced script, or follows one."""
    points, places = np.empty(room, np.uint32), np.empty(room, np.int64)
    for d in range(offsets.shape[0] - 1):
        end = offsets[d + 1]
        i = _first_unspaced(data, offsets[d], end, flags)
        if i >= end:
            continue
        # from a little before the first such letter to the end of the text
        count, kana, han = 0, 0, 0
        i = max(i - 4 * _REACH, offsets[d])
        while i > offsets[d] and (at(data, i) & 0xC0) == 0x80:
            i -= 1
        while i < end:
            point, size = decode(data, i, end)
            points[np.uint64(count)], places[np.uint64(count)] = point, i
            count += 1
            i += size
            if point >= 0x2E80:
                is_kana = _is_kana(point)
                kana += is_kana
                han += not is_kana and point < flags.shape[0] and (at(flags, point) & UNSPACED) != 0
        east_asian = _JA if kana * _KANA_PART >= kana + han else _ZH
        before = np.int64(-2)  # the script of the previous letter, if it is an unspaced one
        for k in range(count):
            letter = np.int64(at(points, k))
            flag = at(flags, letter) if letter < flags.shape[0] else np.uint8(0)
            if flag & UNSPACED:
                script = _script(letter)
                model = east_asian if script == _ZH else script
                if before != script or model < 0:
                    begins[np.uint64(at(places, k))] = True
                else:
                    total = score(points, count, k, model, filter_, keys, weights)
                    begins[np.uint64(at(places, k))] = 2 * total > biases[model]
                before = np.int64(script)
            elif before != -2 and not flag & MARK:
                begins[np.uint64(at(places, k))] = True
                before = np.int64(-2)


_Tables = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64], npt.NDArray[np.int32], npt.NDArray[np.int64]]


def _hash_weights(models: dict[int, dict[str, dict[str, int]]]) -> _Tables:
    """Return a filter of windows with a weight, an open-addressed table of the weights of all models, and twice the
    bound of each model."""
    entries = []
    biases = np.zeros(len(MODELS), dtype=np.int64)
    for model, windows in models.items():
        for window, (name, _, size) in enumerate(WINDOWS):
            for characters, weight in windows.get(name, {}).items():
                biases[model] += weight
                points = np.array([ord(character) for character in characters], dtype=np.uint32)
                if len(points) == size:
                    entries.append((int(_key(points, 0, size, window, model)), weight))
    table = 1 << (4 * len(entries)).bit_length()
    keys, weights = np.zeros(table, dtype=np.uint64), np.zeros(table, dtype=np.int32)
    filter_ = np.zeros(_FILTER_BITS // 8, dtype=np.uint8)
    for key, weight in entries:
        slot = key >> 40 & (table - 1)
        while keys[slot]:
            slot = (slot + 1) & (table - 1)
        keys[slot], weights[slot] = key, weight
        bit = key >> 20 & (_FILTER_BITS - 1)
        filter_[bit >> 3] |= 1 << (bit & 7)
    return read_only(filter_), read_only(keys), read_only(weights), read_only(biases)


@lru_cache(maxsize=1)
def _tables() -> _Tables:
    models = {}
    for number, language in enumerate(MODELS):
        models[number] = json.loads(model_path(language).read_text(encoding="utf-8"))
    return _hash_weights(models)


def model_path(language: str) -> Path:
    """Return the file of a language's weights.

    Raises:
        ValueError: BudouX is not installed.
    """
    if language not in _BUDOUX:
        return Path(__file__).with_name(f"segmenter_{language}.json")
    specification = importlib.util.find_spec("budoux")
    for folder in (specification.submodule_search_locations or ()) if specification else ():
        path = Path(folder) / "models" / _BUDOUX[language]
        if path.is_file():
            return path
    raise ValueError(
        f"budoux, which brings the model that divides {language} into words, is not installed: [data] extra"
    )


def mark_words(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Mark where words of unspaced scripts begin: `bool[bytes]`, false everywhere in other scripts.

    Also true at the first character after such a word, and after a U+200B.

    Args:
        data: UTF-8 bytes of all documents.
        offsets: document d is bytes [offsets[d], offsets[d + 1]).
    """
    begins = np.zeros(len(data), dtype=np.bool_)
    room = scratch_size(longest_text(offsets))
    _mark_words(read_only(data), read_only(offsets), character_flags(), *_tables(), room, begins)
    return begins


def divide(text: str) -> list[str]:
    """Divide a text into words of unspaced scripts and the parts between them."""
    data = text.encode()
    begins = mark_words(np.frombuffer(data, dtype=np.uint8), np.array([0, len(data)], dtype=np.int64))
    cuts = [0, *np.flatnonzero(begins[1:] if len(begins) else begins) + 1, len(data)]
    return [data[start:stop].decode() for start, stop in itertools.pairwise(cuts) if start < stop]
