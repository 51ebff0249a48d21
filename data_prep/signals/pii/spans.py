"""Spans of personal data: their kinds, how overlapping ones are merged, and their replacement by placeholders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

KINDS = ("KEY", "EMAIL", "IBAN", "CREDIT_CARD", "IP_ADDRESS", "PHONE")
"""What is found; the earlier kind wins where two claim the same bytes."""
PLACEHOLDER = "PI:{kind}"


class Span(NamedTuple):
    """Bytes [start, end) of a text, and what they are."""

    kind: str
    start: int
    end: int


def merge(spans: Sequence[Span]) -> list[Span]:
    """Sort spans and unite those that overlap: a union has the kind of the span that begins first, and of the longer
    one where two begin together."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end, KINDS.index(span.kind))):
        if merged and span.start < merged[-1].end:
            if span.end > merged[-1].end:
                merged[-1] = Span(merged[-1].kind, merged[-1].start, span.end)
        else:
            merged.append(span)
    return merged


def redact(text: bytes, spans: Sequence[Span | tuple[str, int, int]]) -> bytes:
    """The UTF-8 text with each span replaced by its placeholder; nothing is searched for.

    Args:
        spans: (kind, start, end), half-open in bytes, in order and without overlaps.

    Raises:
        ValueError: a span lies outside the text, overlaps the one before or cuts a character.
    """
    if not spans:
        return text
    pieces: list[bytes] = []
    done = 0
    for kind, start, end in spans:
        if not done <= start <= end <= len(text):
            raise ValueError(
                f"span {kind} [{start}, {end}) must lie in [{done}, {len(text)}): in order, and inside the text"
            )
        if not (is_character_bound(text, start) and is_character_bound(text, end)):
            raise ValueError(f"span {kind} [{start}, {end}) cuts a character in two")
        pieces += (text[done:start], PLACEHOLDER.format(kind=kind).encode())
        done = end
    pieces.append(text[done:])
    return b"".join(pieces)


def is_character_bound(text: bytes, place: int) -> bool:
    """Whether no character of a UTF-8 text lies on both sides of a place."""
    return place == len(text) or text[place] & 0xC0 != 0x80
