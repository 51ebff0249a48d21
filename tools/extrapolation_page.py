"""The page of `altiplano extrapolation`: loss by length of the window, and by place in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation.figures import COLOURS, as_svg, new_figure
from tools.report.markup import section, table
from tools.report.page import whole_page

if TYPE_CHECKING:
    from tools.extrapolation import Reading

_WIDTH_INCHES, _HEIGHT_INCHES = 5.4, 3.4
_BINS = 24
_COLOURS = ("blue", "orange", "green", "red", "soft", "ink")
_MARKS = ("o", "s", "D", "^", "v", "x")


def charts(trained: int, results: Sequence[Reading]) -> dict[str, str]:
    """The charts by name, as SVG elements."""
    return {"lengths": length_chart(trained, results), "places": position_chart(trained, results)}


def extrapolation_page(stride: int, tokens: int, results: Sequence[Reading], drawn: dict[str, str]) -> str:
    """The whole page as HTML, with the `charts`."""
    heads = ("model", "positions", "window", "of the training's", "windows apart", f"sliding by {stride}")
    rows = [
        (one.model, one.positions, f"{one.length}", f"{one.ratio:g}", f"{one.loss:.4f}", f"{one.sliding_loss:.4f}")
        for one in results
    ]
    note = f"<p>{tokens:,} tokens of held-out documents, the same ones for every row; nats per token.</p>"
    sections = [
        section("Charts", f'<div class="charts">{"".join(drawn.values())}</div>'),
        section("Losses", note + table(heads, rows)),
    ]
    return whole_page("Longer than trained", "Altiplano extrapolation", sections)


def length_chart(trained: int, results: Sequence[Reading]) -> str:
    """Loss by length, of windows apart (solid) and sliding (dashed); an SVG element."""
    figure, axes = new_figure(_WIDTH_INCHES, _HEIGHT_INCHES)
    axes.axvline(trained, color=COLOURS["line"], linewidth=1)
    for i, label in enumerate(_labels(results)):
        own = _line(results, label)
        lengths = [one.length for one in own]
        colour = COLOURS[_COLOURS[i % len(_COLOURS)]]
        mark = _MARKS[i % len(_MARKS)]
        axes.plot(lengths, [one.loss for one in own], mark + "-", color=colour, markersize=4, label=label)
        axes.plot(lengths, [one.sliding_loss for one in own], mark + "--", color=colour, markersize=4, fillstyle="none")
    axes.plot([], [], "--", color=COLOURS["soft"], label="sliding windows")
    _finish(axes, "Loss by length of the window", "tokens of a window")
    return as_svg(figure)


def position_chart(trained: int, results: Sequence[Reading]) -> str:
    """Loss by place in the longest window; an SVG element."""
    figure, axes = new_figure(_WIDTH_INCHES, _HEIGHT_INCHES)
    longest = max(one.length for one in results)
    axes.axvline(trained, color=COLOURS["line"], linewidth=1)
    for i, label in enumerate(_labels(results)):
        for one in _line(results, label):
            if one.length == longest:
                places, losses = binned(one.by_position)
                axes.plot(places, losses, color=COLOURS[_COLOURS[i % len(_COLOURS)]], linewidth=1.4, label=label)
    _finish(axes, f"Loss by place in windows of {longest} tokens", "place of the token")
    return as_svg(figure)


def binned(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means over stretches of places, which grow with the place."""
    edges = np.unique(np.geomspace(1, len(values) + 1, _BINS + 1).astype(int)) - 1
    parts = [(a, b) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    return [(a + b + 1) / 2 for a, b in parts], [float(np.mean(values[a:b])) for a, b in parts]


def _labels(results: Sequence[Reading]) -> list[str]:
    return list(dict.fromkeys(f"{one.model}: {one.positions}" for one in results))


def _line(results: Sequence[Reading], label: str) -> list[Reading]:
    """Readings of a line; one of scaled positions begins at the training's length, which needs no scaling."""
    own = [one for one in results if f"{one.model}: {one.positions}" == label]
    model, _, positions = label.rpartition(": ")
    plain = positions.partition(",")[0]
    start = [one for one in results if (one.model, one.positions, one.ratio) == (model, plain, 1)]
    return sorted([*(start if plain != positions else []), *own], key=lambda one: one.length)


def _finish(axes: Any, title: str, x_label: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=COLOURS["ink"])
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel("nats per token", fontsize=9)
    axes.grid(axis="y", color=COLOURS["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(fontsize=7.5, frameon=False, labelcolor=COLOURS["soft"])
