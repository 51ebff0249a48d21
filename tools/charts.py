"""Line charts and bars for the pages of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from foundation.figures import COLOURS, as_svg, new_figure

_WIDTH_INCHES, _HEIGHT_INCHES = 5.4, 2.8  # two beside each other on a wide screen, readable on a telephone's
_STYLES: dict[str, dict[str, Any]] = {
    "strong": {"color": COLOURS["blue"], "linewidth": 1.6},
    "faint": {"color": COLOURS["pale"], "linewidth": 0.9},
    "second": {"color": COLOURS["orange"], "linewidth": 1.6},
    "limit": {"color": COLOURS["soft"], "linewidth": 1.0, "linestyle": "dotted"},
}


@dataclass(frozen=True)
class Series:
    """A line through points (x, y).

    Attributes:
        style: `strong`, `faint`, `second` or `limit`.
        label: in the legend; empty: not listed there.
        points: x ascending.
        dots: whether each point has a dot.
    """

    style: str
    label: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


def line_chart(
    title: str, series: Sequence[Series], *, x_label: str, marks: Sequence[tuple[float, str]] = (), zero: bool = False
) -> str:
    """Draw lines as an SVG element; empty when there is no point.

    Args:
        marks: vertical lines `(x, label)`; those outside the points are left out.
        zero: the y axis begins at 0.
    """
    from matplotlib.ticker import FuncFormatter

    drawn = [one for one in series if one.points]
    if not drawn:
        return ""
    figure, axes = new_figure(_WIDTH_INCHES, _HEIGHT_INCHES)
    for one in drawn:
        xs, ys = zip(*one.points, strict=True)
        axes.plot(
            xs, ys, label=one.label or "_", marker="o" if one.dots else "", markersize=3.5, gid=one.label or one.style,
            **_STYLES[one.style],
        )  # fmt: skip
    if zero:
        axes.set_ylim(bottom=0)
    low, high = min(one.points[0][0] for one in drawn), max(one.points[-1][0] for one in drawn)
    for x, label in marks:
        if low <= x <= high:
            axes.axvline(x, color=COLOURS["soft"], linewidth=0.8, linestyle="dashed")
            on_the_right = x > low + 0.8 * (high - low)
            # at the top: a loss is low where most of the marks are
            axes.annotate(
                label, (x, 1), xycoords=("data", "axes fraction"), xytext=(-4 if on_the_right else 4, -2),
                textcoords="offset points", ha="right" if on_the_right else "left", va="top", fontsize=8,
                color=COLOURS["soft"],
            )  # fmt: skip
    has_legend = any(one.label for one in drawn)
    pad = 18 if has_legend else 6  # points; the legend is between title and axes
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=COLOURS["ink"], pad=pad)
    axes.set_xlabel(x_label, fontsize=9)
    axes.grid(axis="y", color=COLOURS["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    if has_legend:
        legend = axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, borderpad=0.3, ncols=3, fontsize=8, frameon=False,
            handlelength=1.2, columnspacing=1.2, labelcolor=COLOURS["soft"],
        )  # fmt: skip
        legend.set_in_layout(False)  # a long label must not leave the axes without room
    return as_svg(figure)


def finish_axes(axes: Any, title: str, x_label: str, y_label: str) -> None:
    """Give a chart its title, labels, grid, and a legend in which each label stands once."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=COLOURS["ink"])
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    axes.tick_params(which="both", labelsize=9, color=COLOURS["soft"], labelcolor=COLOURS["soft"])
    axes.grid(color=COLOURS["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if unique:
        axes.legend(unique.values(), unique.keys(), fontsize=8, frameon=False, labelcolor=COLOURS["soft"])


def bars(shares: Sequence[tuple[str, float, str]]) -> str:
    """One horizontal bar as HTML, made of parts `(style, share of the whole, tooltip)`."""
    parts = "".join(
        f'<i class="{style}" style="width:{100 * share:.2f}%" title="{escape(tip)}"></i>'
        for style, share, tip in shares
        if share > 0
    )
    return f'<div class="bar">{parts}</div>'


def number(value: float) -> str:
    """A number as short as a tick needs it: `1.2M`, `25k`, `0.0005`."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * (10 if unit == "k" else 1):
            return f"{value / size:.4g}{unit}"
    if value == 0:
        return "0"
    return f"{value:.3g}" if 1e-4 <= abs(value) < 1e3 else f"{value:,.0f}" if abs(value) >= 1e3 else f"{value:.1e}"


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Mean over a window centred on each point, so that a falling curve is not drawn too high.

    The window is a twentieth of the curve wide, and narrower towards the ends, where it stays centred.
    """
    reach = max(2, len(points) // 40)
    values = [y for _, y in points]
    out = []
    for i, (x, _) in enumerate(points):
        near = min(reach, i, len(points) - 1 - i)
        window = values[i - near : i + near + 1]
        out.append((x, sum(window) / len(window)))
    return out
