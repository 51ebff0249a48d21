"""Figures for pages: SVG by matplotlib, the same bytes for the same numbers, in the colours of the page around it."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "ink": "#1f2933",
    "soft": "#5f6c7b",
    "line": "#e3e8ee",
    "blue": "#2563a8",
    "pale": "#a9c5e4",
    "orange": "#d9661f",
    "green": "#2f855a",
    "red": "#c53030",
}
"""Colours by the names of a page's CSS variables, which replace them where the page defines any (a dark page does)."""


def new_figure(width_inches: float, height_inches: float) -> tuple[Figure, Axes]:
    """Make a figure with one pair of axes, without a frame."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(COLOURS["soft"])
    axes.tick_params(labelsize=9, color=COLOURS["soft"], labelcolor=COLOURS["soft"])
    axes.xaxis.label.set_color(COLOURS["soft"])
    axes.yaxis.label.set_color(COLOURS["soft"])
    return figure, axes


def as_svg(figure: Figure) -> str:
    """Render a figure as an `<svg>` element with a transparent background; text remains text."""
    import matplotlib

    image = io.StringIO()
    # salt and date: like other outputs, a page has the same bytes for the same numbers
    with matplotlib.rc_context({"svg.hashsalt": "figure", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(image, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    # inside a page an SVG needs no declarations, and must not refer to remote files
    svg = re.sub(r"<metadata>.*?</metadata>", "", image.getvalue(), flags=re.S)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name}, {colour})")
    return svg[svg.index("<svg") :]
