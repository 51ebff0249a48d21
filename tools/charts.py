"""Charts as SVG text for a page that needs nothing from outside; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 40


@dataclass(frozen=True)
class Series:
    """A line through points (x, y).

    Attributes:
        style: class of the style sheet: `strong`, `faint`, `second` or `limit`.
        label: in the legend; empty: not there.
        points: x ascending.
        dots: a dot with a tooltip at each point.
    """

    style: str
    label: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


def line_chart(
    title: str, series: Sequence[Series], *, x_label: str, marks: Sequence[tuple[float, str]] = (), zero: bool = False
) -> str:
    """An SVG line chart with axes, legend and vertical marks `(x, label)`; `zero`: the y axis begins at 0."""
    drawn = [one for one in series if one.points]
    xs = [x for one in drawn for x, _ in one.points]
    ys = [y for one in drawn for _, y in one.points]
    if not xs:
        return ""
    x_ticks = ticks(min(xs), max(xs), 8)
    y_ticks = ticks(0.0 if zero else min(ys), max(ys), 6)
    x_low, x_high = min(xs), max(xs)
    if x_high == x_low:
        x_low, x_high = x_low - 1, x_high + 1
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def px(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for y in y_ticks:
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>')
        out.append(f'<text class="tick" x="{LEFT - 8}" y="{py(y) + 4:.1f}" text-anchor="end">{number(y)}</text>')
    for x in x_ticks:
        if x_low <= x <= x_high:
            place = f'x="{px(x):.1f}" y="{HEIGHT - BOTTOM + 18}"'
            out.append(f'<text class="tick" {place} text-anchor="middle">{number(x)}</text>')
    out.append(
        f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    for x, label in marks:
        if x_low <= x <= x_high:
            out.append(f'<line class="mark" x1="{px(x):.1f}" x2="{px(x):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
            # At the top: a loss is low where most of the marks are.
            left = px(x) > WIDTH * 0.8  # where it would stand out on the right
            place = f'x="{px(x) + (-5 if left else 5):.1f}" y="{TOP + 12}"' + ' text-anchor="end"' * left
            out.append(f'<text class="tick" {place}>{escape(label)}</text>')
    for one in drawn:
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in one.points)
        out.append(f'<polyline class="line {one.style}" points="{path}"/>')
        if one.dots:
            for x, y in one.points:
                tip = f"{escape(x_label)} {number(x)}: {y:.4g}"
                out.append(f'<circle class="dot {one.style}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="3.5">')
                out.append(f"<title>{tip}</title></circle>")
    out.append("</svg>")
    legend = "".join(f'<span><i class="{one.style}"></i>{escape(one.label)}</span>' for one in drawn if one.label)
    caption = f'<figcaption><b>{escape(title)}</b><span class="legend">{legend}</span></figcaption>'
    return f"<figure>{caption}{''.join(out)}</figure>"


def bars(shares: Sequence[tuple[str, float, str]]) -> str:
    """One horizontal bar made of parts `(style, share of the whole, tooltip)`."""
    parts = "".join(
        f'<i class="{style}" style="width:{100 * share:.2f}%" title="{escape(tip)}"></i>'
        for style, share, tip in shares
        if share > 0
    )
    return f'<div class="bar">{parts}</div>'


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round values about `count` apart that enclose [low, high]."""
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1.0, 2.0, 2.5, 5.0, 10.0) if size * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


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
