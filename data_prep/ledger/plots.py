"""The pictures of the ledger's page, each an SVG, with the same bytes for the same counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foundation.figures import as_svg, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REASONS_SHOWN = 8
_LANGUAGES_SHOWN = 20
_KEPT, _DROPPED, _QUIET = "#2a7f62", "#c44e52", "#e3b5b7"
_REASON_COLOURS = ("#c44e52", "#dd8452", "#ccb974", "#8172b3", "#937860", "#da8bc3", "#8c8c8c", "#64b5cd", "#bbbbbb")
_WIDTH_INCHES = 10.0
_BAR_INCHES = 0.3


def sources(documents: Mapping[str, Any]) -> str:
    """Draw the shares of each source's documents: kept, and dropped by the first reason."""
    names = list(documents["by_source"])[::-1]
    shown = [name for name, _ in Counter(documents["by_reason"]).most_common(_REASONS_SHOWN)]
    figure, axes = new_figure(_WIDTH_INCHES, 1.5 + 1.3 * _BAR_INCHES * len(names))
    left = [0.0] * len(names)
    for part, colour in zip(("kept", *shown, "other reasons"), (_KEPT, *_REASON_COLOURS), strict=False):
        widths = [_percent(documents["by_source"][name], part, shown) for name in names]
        if any(widths):
            axes.barh(names, widths, left=left, label=part, color=colour)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set(xlabel="% of the source's documents", xlim=(0, 100))
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return as_svg(figure)


def _percent(account: Mapping[str, Any], part: str, shown: Sequence[str]) -> float:
    if part == "kept":
        count = account["kept"]
    elif part == "other reasons":
        count = sum(number for name, number in account["by_reason"].items() if name not in shown)
    else:
        count = account["by_reason"].get(part, 0)
    return 100 * count / account["in"] if account["in"] else 0.0


def reasons(documents: Mapping[str, Any]) -> str:
    """Draw how many documents each reason drops, and for how many it is the only one."""
    against = documents["by_any_reason"]
    names = list(against)[::-1]
    figure, axes = new_figure(_WIDTH_INCHES, 1.0 + _BAR_INCHES * len(names))
    axes.barh(names, [against[name]["against"] for name in names], color=_QUIET, label="reason against")
    axes.barh(names, [against[name]["alone"] for name in names], color=_DROPPED, label="only reason against")
    axes.set(xlabel="documents")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return as_svg(figure)


def languages(documents: Mapping[str, Any]) -> str:
    """The languages with most documents: kept beside dropped, logarithmic."""
    shown = list(documents["by_language"].items())[:_LANGUAGES_SHOWN][::-1]
    figure, axes = new_figure(_WIDTH_INCHES, 1.0 + 1.6 * _BAR_INCHES * len(shown))
    places = range(len(shown))
    for shift, part, colour in ((0.2, "kept", _KEPT), (-0.2, "dropped", _DROPPED)):
        counts = [account[part] for _, account in shown]
        axes.barh([place + shift for place in places], counts, height=0.4, color=colour, label=part)
    axes.set_yticks(list(places), [name for name, _ in shown])
    axes.set_xscale("symlog", linthresh=1)
    axes.set(xlabel="documents (logarithmic)")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return as_svg(figure)


def lengths(account: Mapping[str, Any]) -> str:
    """Draw documents by their bytes, in powers of two, kept and dropped stacked."""
    counts = {int(edge): parts for edge, parts in account["by_bytes_from"].items()}
    edges = [] if not counts else _doubling(min(counts), max(counts))
    figure, axes = new_figure(_WIDTH_INCHES, 2.6)
    _stack(axes, [counts.get(edge, {}) for edge in edges])
    axes.set_xticks(range(len(edges)), [_bytes(edge) for edge in edges], fontsize=8)
    axes.set(xlabel="bytes of the document, from", ylabel="documents")
    return as_svg(figure)


def probabilities(account: Mapping[str, Any]) -> str:
    """Draw documents by the probability of their language."""
    counts = {round(20 * float(edge)): parts for edge, parts in account["by_language_probability_from"].items()}
    figure, axes = new_figure(_WIDTH_INCHES, 2.6)
    _stack(axes, [counts.get(place, {}) for place in range(20)])
    axes.set_xticks([place - 0.5 for place in range(0, 21, 2)], [f"{place / 20:.1f}" for place in range(0, 21, 2)])
    axes.set_yscale("symlog", linthresh=10)
    axes.set(xlabel="probability of the language", ylabel="documents (logarithmic)")
    return as_svg(figure)


def _stack(axes: Axes, counts: Sequence[Mapping[str, int]]) -> None:
    kept = [parts.get("kept", 0) for parts in counts]
    axes.bar(range(len(counts)), kept, width=0.95, color=_KEPT, label="kept")
    dropped = [parts.get("dropped", 0) for parts in counts]
    axes.bar(range(len(counts)), dropped, width=0.95, bottom=kept, color=_DROPPED, label="dropped")
    axes.legend(fontsize=8, frameon=False, loc="upper left")


def _doubling(first: int, last: int) -> list[int]:
    edges = [first]
    while edges[-1] < last:
        edges.append(max(1, 2 * edges[-1]))
    return edges


def _bytes(count: int) -> str:
    for unit, size in (("G", 1 << 30), ("M", 1 << 20), ("k", 1 << 10)):
        if count >= size:
            return f"{count // size}{unit}"
    return str(count)
