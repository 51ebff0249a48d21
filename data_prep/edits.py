"""What is left of a document: some ranges are cut out, personal data is replaced by placeholders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from data_prep.signals.pii import redact


def merge_cuts(cuts: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Half-open ranges in order, those that touch or overlap as one."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(cuts):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def edit(text: str, spans: Sequence[tuple[str, int, int]], cuts: Sequence[tuple[int, int]]) -> str:
    """The text without the ranges of `cuts`, and with a placeholder for each span; nothing is searched for.

    Args:
        spans: (kind, start, end) of personal data, half-open in bytes of the UTF-8 text, in order, without overlaps.
        cuts: (start, end) in bytes, in order, without overlaps; what of a span lies outside of them is replaced.

    Raises:
        ValueError: a range lies outside the text, overlaps the one before or cuts a character.
    """
    if not cuts:
        return redact(text, spans)
    data = text.encode()
    pieces: list[str] = []
    done = 0
    for start, stop in [*cuts, (len(data), len(data))]:
        if not done <= start <= stop <= len(data):
            raise ValueError(f"cut [{start}, {stop}) must lie in [{done}, {len(data)}): in order, and inside the text")
        try:
            piece = data[done:start].decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"a cut divides a character: {error}") from None
        inside = [
            (kind, max(first, done) - done, min(last, start) - done)
            for kind, first, last in spans
            if first < start and last > done
        ]
        pieces.append(redact(piece, inside))
        done = stop
    return "".join(pieces)
