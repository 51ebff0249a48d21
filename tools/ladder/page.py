"""The page about a ladder: its rungs, the laws, how well they predict, and what they say is optimal."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from foundation.figures import COLOURS, as_svg, new_figure
from foundation.progress import format_seconds
from tools.charts import finish_axes, number
from tools.ladder.fitting import LadderFit, law_rows, outcome_rows
from tools.ladder.frontier import ComputeLaw, Frontier
from tools.report.markup import section, table
from tools.report.page import whole_page

_WIDTH_INCHES, _HEIGHT_INCHES = 5.4, 3.4
_LINE_POINTS = 80


def charts(found: LadderFit, predictions: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The charts by name, as SVG elements.

    Args:
        predictions: what `tools.ladder.prediction.with_outcomes` returns.
    """
    return {
        "losses": losses_chart(found, predictions),
        "errors": errors_chart(found),
        "optima": optima_chart(found),
    }


def ladder_page(title: str, found: LadderFit, predictions: Sequence[dict[str, Any]], drawn: dict[str, str]) -> str:
    """The whole page as HTML, with the `charts`."""
    refusal = f'<p class="bad">No prediction can be made: {escape(found.refusal)}</p>' if found.refusal else ""
    sections = [
        section(
            "The law",
            refusal + table(("L = E + A / N^α + B / D^β", "value", "90 % of resampled fits"), law_rows(found)),
        ),
        section("Charts", f'<div class="charts">{"".join(drawn.values())}</div>'),
        section("What is optimal", table(("approach", "exponent of N by compute", ""), outcome_rows(found))),
        section("Loss by compute alone", table(("tokens for each parameter", "L(C)", "rungs"), _compute_rows(found))),
    ]
    if predictions:
        heads = (
            "made",
            "run",
            "parameters",
            "tokens",
            "predicted",
            "90 % interval",
            "beyond the largest rung",
            "reached",
        )
        sections.append(section("Predictions", table(heads, [_prediction_row(one) for one in predictions])))
    sections.append(
        section("Rungs", table(("rung", "parameters", "tokens", "FLOPs", "loss", "error", "time"), _rungs(found)))
    )
    return whole_page(title, "Altiplano ladder", sections)


def losses_chart(found: LadderFit, predictions: Sequence[dict[str, Any]]) -> str:
    """Loss by compute: rungs, the law through each size, and predicted runs with their intervals; an SVG element."""
    figure, axes = new_figure(_WIDTH_INCHES, _HEIGHT_INCHES)
    points = found.points
    sizes = np.unique(points.parameters)
    end = max([float(points.flops[-1]), *(one["flops"] for one in predictions)])
    for i, size in enumerate(sizes):
        own = points.parameters == size
        per_token = float(np.mean(points.flops[own] / points.tokens[own]))
        flops = np.geomspace(points.flops[own][0], end, _LINE_POINTS)
        shade = COLOURS["blue"] if i % 2 == 0 else COLOURS["green"]
        axes.plot(flops, [found.law(size, c / per_token) for c in flops], color=COLOURS["pale"], linewidth=1.0)
        axes.plot(points.flops[own], points.losses[own], "o", color=shade, markersize=4)
        axes.annotate(
            number(float(size)), (points.flops[own][0], points.losses[own][0]), xytext=(0, 6), fontsize=7.5,
            textcoords="offset points", ha="center", color=COLOURS["soft"],
        )  # fmt: skip
    for one in predictions:
        axes.errorbar(
            [one["flops"]], [one["loss"]], yerr=[[one["loss"] - one["low"]], [one["high"] - one["loss"]]], fmt="D",
            color=COLOURS["orange"], markersize=5, capsize=4, label="predicted, 90 % interval",
        )  # fmt: skip
        if one["reached"] is not None:
            axes.plot([one["flops"]], [one["reached"]], "x", color=COLOURS["red"], markersize=8, label="reached")
    axes.set_xscale("log")
    finish_axes(axes, "Held-out loss of the rungs, by size", "FLOPs of the training", "nats per token")
    return as_svg(figure)


def errors_chart(found: LadderFit) -> str:
    """Error of the fit at each rung, and of backtests, by compute; an SVG element."""
    figure, axes = new_figure(_WIDTH_INCHES, _HEIGHT_INCHES)
    axes.axhline(0, color=COLOURS["line"], linewidth=1)
    axes.plot(
        found.points.flops, 100 * np.array(found.residuals), "o", color=COLOURS["blue"], markersize=4, label="fit"
    )
    flops = dict(zip(zip(found.points.parameters, found.points.tokens, strict=True), found.points.flops, strict=True))
    where = [flops[test.parameters, test.tokens] for test in found.tests]
    errors = [100 * float(np.log(test.loss / test.predicted)) for test in found.tests]
    axes.plot(
        where, errors, "s", color=COLOURS["orange"], markersize=4, label="from cheaper rungs alone", fillstyle="none"
    )
    axes.set_xscale("log")
    finish_axes(axes, "Loss beyond the law", "FLOPs of the training", "per cent")
    return as_svg(figure)


def optima_chart(found: LadderFit) -> str:
    """Optimal size by compute, of the three approaches; an SVG element."""
    figure, axes = new_figure(_WIDTH_INCHES, _HEIGHT_INCHES)
    points = found.points
    flops = np.geomspace(points.flops[0], points.flops[-1], _LINE_POINTS)
    if min(found.law.A, found.law.B) > 0:
        axes.plot(flops, [found.law.optimum(c)[0] for c in flops], color=COLOURS["blue"], linewidth=1.6, label="3 law")
    for one, mark, colour, label in (
        (found.by_curves, ".", COLOURS["pale"], "1 curves"),
        (found.by_profiles, "D", COLOURS["orange"], "2 parabolas"),
    ):
        if isinstance(one, Frontier):
            axes.plot(one.flops, one.parameters, mark, color=colour, markersize=4, label=label)
    axes.plot(points.flops, points.parameters, "o", color=COLOURS["soft"], markersize=2.5, label="rungs")
    axes.set_xscale("log")
    axes.set_yscale("log")
    finish_axes(axes, "Optimal size by compute", "FLOPs of the training", "parameters")
    return as_svg(figure)


def _compute_rows(found: LadderFit) -> list[tuple[str, str, str]]:
    rows = []
    for ratio, one in found.by_compute.items():
        if isinstance(one, ComputeLaw):
            rows.append((f"{ratio:g}", f"{one.a:.4g} C^{one.b:.4f} + {one.c:.4g}", f"{one.rungs}"))
        else:
            rows.append((f"{ratio:g}", one, ""))
    return rows


def _prediction_row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["made"],
        one["run"]["output"],
        number(one["parameters"]),
        number(one["tokens"]),
        f"{one['loss']:.4f}",
        f"{one['low']:.4f} to {one['high']:.4f}",
        f"{one['beyond']['largest_rung']:.1f} times",
        _outcome(one),
    )


def _outcome(one: dict[str, Any]) -> str:
    if one["reached"] is None:
        return "not finished"
    is_inside = one["low"] <= one["reached"] <= one["high"]
    return f"{one['reached']:.4f}, {'inside' if is_inside else 'OUTSIDE'} the interval"


def _rungs(found: LadderFit) -> list[tuple[str, ...]]:
    return [
        (
            one.name,
            number(one.parameters),
            number(one.tokens),
            f"{one.flops:.3g}",
            f"{one.loss:.4f}",
            f"{one.loss / found.law(one.parameters, one.tokens) - 1:+.2%}",
            "" if one.seconds is None else format_seconds(one.seconds),
        )
        for one in found.results
    ]
