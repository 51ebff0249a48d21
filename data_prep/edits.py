"""Edits of kept documents: ranges are cut, personal data is replaced by placeholders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise

from data_prep.signals.pii.find import is_character_bound, redact
from data_prep.sources.reading import NO_LOSS, characters_to_bytes


def merge_cuts(cuts: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort half-open ranges, and merge those that touch or overlap."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(cuts):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def edit(text: bytes, spans: Sequence[tuple[str, int, int]], cuts: Sequence[tuple[int, int]]) -> bytes:
    """Return a UTF-8 text without the ranges of `cuts`, and with a placeholder for each span.

    Args:
        spans: (kind, start, end) of personal data, half-open in bytes, in order, without overlaps.
        cuts: (start, end) in bytes, in order, without overlaps; the part of a span outside them is replaced.

    Raises:
        ValueError: a range is outside the text, overlaps the one before or divides a character.
    """
    pieces: list[bytes] = []
    done = 0
    for start, stop in [*cuts, (len(text), len(text))]:
        if not done <= start <= stop <= len(text):
            raise ValueError(f"cut [{start}, {stop}) must be in order and within [{done}, {len(text)})")
        if not (is_character_bound(text, start) and is_character_bound(text, stop)):
            raise ValueError(f"cut [{start}, {stop}) divides a character")
        inside = [
            (kind, max(first, done) - done, min(last, start) - done)
            for kind, first, last in spans
            if first < start and last > done
        ]
        pieces.append(redact(text[done:start], inside))
        done = stop
    return b"".join(pieces)


def no_loss_of(metadata: str, text: bytes) -> list[tuple[int, int]]:
    """Return the ranges of a document that are excluded from the loss, in bytes of its UTF-8 text, from its JSON
    metadata."""
    return characters_to_bytes(text.decode(), json.loads(metadata).get(NO_LOSS) or [])


def edit_marked(
    text: bytes,
    spans: Sequence[tuple[str, int, int]],
    cuts: Sequence[tuple[int, int]],
    marks: Sequence[tuple[int, int]],
    *,
    keep_empty: bool = False,
) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """Edit a text and return where some of its ranges are in the result.

    Args:
        marks: half-open ranges in bytes, in order, without overlaps. A span that crosses the end of one is replaced on
            both sides.
        keep_empty: keep the marks that have become empty.

    Returns:
        The edited text and its marks, in bytes.
    """
    if not marks:
        return edit(text, spans, cuts), ()
    ends = sorted({0, len(text), *(end for mark in marks for end in mark)})
    pieces: list[bytes] = []
    moved = [0]
    for start, stop in pairwise(ends):

        def clip(first: int, last: int, start: int = start, stop: int = stop) -> tuple[int, int]:
            return max(first, start) - start, min(last, stop) - start

        inside = [(kind, *clip(first, last)) for kind, first, last in spans if first < stop and last > start]
        cut = [clip(first, last) for first, last in cuts if first < stop and last > start]
        pieces.append(edit(text[start:stop], inside, cut))
        moved.append(moved[-1] + len(pieces[-1]))
    place = dict(zip(ends, moved, strict=True))
    kept = ((place[start], place[stop]) for start, stop in marks)
    return b"".join(pieces), tuple((start, stop) for start, stop in kept if keep_empty or start < stop)
