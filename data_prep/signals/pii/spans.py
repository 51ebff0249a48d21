"""Spans of personal data: their kinds, how overlapping ones are merged, and their replacement by placeholders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

KINDS = ("KEY", "EMAIL", "IBAN", "CREDIT_CARD", "IP_ADDRESS", "PHONE", "USER")
"""Kinds of personal data; the earlier kind wins if two cover the same bytes."""
PLACEHOLDER = "PI:{kind}"


class Span(NamedTuple):
    """Bytes [start, end) of a text, and their kind."""

    kind: str
    start: int
    end: int


def merge(spans: Sequence[Span]) -> list[Span]:
    """Sort spans and merge overlapping ones: the result has the kind of the span that begins first, or of the longer of
    two that begin together."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end, KINDS.index(span.kind))):
        if merged and span.start < merged[-1].end:
            if span.end > merged[-1].end:
                merged[-1] = Span(merged[-1].kind, merged[-1].start, span.end)
        else:
            merged.append(span)
    return merged


def redact(text: bytes, spans: Sequence[Span | tuple[str, int, int]]) -> bytes:
    """Replace each span of a UTF-8 text by its placeholder.

    Args:
        spans: (kind, start, end), half-open in bytes, in order and without overlaps.

    Raises:
        ValueError: a span is outside the text, overlaps the one before or divides a character.
    """
    if not spans:
        return text
    pieces: list[bytes] = []
    done = 0
    for kind, start, end in spans:
        if not done <= start <= end <= len(text):
            raise ValueError(f"span {kind} [{start}, {end}) must be in order and within [{done}, {len(text)})")
        if not (is_character_bound(text, start) and is_character_bound(text, end)):
            raise ValueError(f"span {kind} [{start}, {end}) divides a character")
        pieces += (text[done:start], PLACEHOLDER.format(kind=kind).encode())
        done = end
    pieces.append(text[done:])
    return b"".join(pieces)


def is_character_bound(text: bytes, place: int) -> bool:
    """Return whether a position in a UTF-8 text is between two characters."""
    return place == len(text) or text[place] & 0xC0 != 0x80
