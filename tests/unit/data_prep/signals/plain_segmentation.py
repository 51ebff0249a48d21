"""The slow plain twin of `segmentation`: where words of scripts without spaces begin."""

from __future__ import annotations

import json
import unicodedata
from functools import lru_cache

from data_prep.kernels.characters import TABLE_SIZE, UNSPACED_RANGES
from data_prep.signals.segmentation import MODELS, WINDOWS, model_path


def category(character: str) -> str:
    return unicodedata.category(character)[0] if ord(character) < TABLE_SIZE else "C"


def is_unspaced(character: str) -> bool:
    return category(character) == "L" and any(start <= ord(character) < stop for start, stop in UNSPACED_RANGES)


def is_kana(character: str) -> bool:
    return "\u3040" <= character < "\u3100" or "\u31f0" <= character < "\u3200" or "\uff66" <= character < "\uff9e"


def script_of(character: str) -> str:
    if character < "\u0e80":
        return "th"
    if "\u1780" <= character < "\u1800":
        return "km"
    return "other" if character < "\u2e80" or "\ua9e0" <= character < "\uaae0" else "cj"


@lru_cache(maxsize=4)
def model_of(language: str) -> dict[str, dict[str, int]]:
    model: dict[str, dict[str, int]] = json.loads(model_path(language).read_text(encoding="utf-8"))
    return model


def is_boundary(text: str, place: int, language: str) -> bool:
    model = model_of(language)
    start = text.rfind("\n", 0, place) + 1
    stop = text.find("\n", place)
    line, place = text[start : stop if stop >= 0 else len(text)], place - start
    total = 0
    for name, first, size in WINDOWS:
        if place + first >= 0 and place + first + size <= len(line):
            total += model.get(name, {}).get(line[place + first : place + first + size], 0)
    return 2 * total > sum(sum(window.values()) for window in model.values())


def begins_of(text: str) -> set[int]:
    """The characters at which `mark_words` says true."""
    kana = sum(is_kana(character) for character in text)
    han = sum(is_unspaced(c) and not is_kana(c) and c >= "\u2e80" for c in text)
    begins = set()
    before: str | None = None
    for place, character in enumerate(text):
        if is_unspaced(character):
            script = script_of(character)
            language = ("ja" if kana * 16 >= kana + han else "zh") if script == "cj" else script
            if before != script or language not in MODELS or is_boundary(text, place, language):
                begins.add(place)
            before = script
        elif before is not None and category(character) != "M":
            begins.add(place)
            before = None
    return begins
