"""The page about a search for weights: the best ones, how well runs are predicted, and what a check reached."""

from __future__ import annotations

from typing import Any

import numpy as np

from foundation.figures import COLOURS, as_svg, new_figure
from tools.charts import finish_axes
from tools.mixture.law import INTERVAL
from tools.report.markup import section, table
from tools.report.page import whole_page

_WIDTH_INCHES, _HEIGHT_INCHES = 5.4, 3.4


def mixture_page(title: str, made: dict[str, Any]) -> str:
    """The whole page as HTML.

    Args:
        made: content of `answer.json`.
    """
    goal, checked = made["goal"], made["checked"]
    reached = "not run yet: altiplano mixture check"
    if checked is not None:
        is_inside = goal["low"] <= checked["goal"] <= goal["high"]
        reached = f"{checked['goal']:.4f}, {'inside' if is_inside else 'OUTSIDE'} the interval"
    facts = [
        ("runs", f"{made['runs']}"),
        ("what is minimised", ", ".join(f"{share:.0%} {name}" for name, share in goal["shares"].items())),
        ("predicted", f"{goal['predicted']:.4f} nats per token"),
        (f"{INTERVAL:.0%} interval", f"{goal['low']:.4f} to {goal['high']:.4f}"),
        ("reached by one more run", reached),
        ("best run of the search", f"{made['best_run']['goal']:.4f} ({made['best_run']['name']})"),
        ("seeds differ by", f"{made['seeds']:.4f} (standard deviation)"),
        ("runs left out of the fit are missed by", f"{made['left_out']['error']:.4f} (root mean square)"),
        ("their differences that are explained", f"{made['left_out']['explained']:.0%}"),
        ("rank correlation", f"{made['left_out']['rank']:.2f}"),
    ]
    weights = [
        (name, *(f"{one[key]:.1%}" for key in ("now", "best", "low", "high", "most")))
        for name, one in made["weights"].items()
    ]
    sources = [
        (name, f"{loss:.4f}", "" if checked is None else f"{checked[name]:.4f}")
        for name, loss in made["by_source"].items()
    ]
    return whole_page(
        title,
        "Altiplano mixture",
        [
            section("The goal", table(("", ""), facts)),
            section("Weights", table(("source", "now", "best", "from", "to", "at most"), weights)),
            section("Charts", f'<div class="charts">{weights_chart(made)}{errors_chart(made)}</div>'),
            section("Held-out losses on the best weights", table(("source", "predicted", "reached"), sources)),
        ],
    )


def weights_chart(made: dict[str, Any]) -> str:
    """Weights at hand and the best ones with their intervals, by source; an SVG element."""
    figure, axes = new_figure(_WIDTH_INCHES, _HEIGHT_INCHES)
    names = list(made["weights"])
    places = np.arange(len(names))
    columns = {
        key: 100 * np.array([made["weights"][name][key] for name in names]) for key in ("now", "best", "low", "high")
    }
    axes.barh(places - 0.2, columns["now"], height=0.36, color=COLOURS["pale"], label="now")
    axes.barh(places + 0.2, columns["best"], height=0.36, color=COLOURS["blue"], label="best")
    beside = np.maximum(0, [columns["best"] - columns["low"], columns["high"] - columns["best"]])
    axes.errorbar(columns["best"], places + 0.2, xerr=beside, fmt="none", ecolor=COLOURS["ink"], capsize=3, linewidth=1)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    finish_axes(axes, "Weights, with 90 % of the resampled fits", "per cent of the training", "")
    return as_svg(figure)


def errors_chart(made: dict[str, Any]) -> str:
    """Predicted and reached goals of runs left out of the fit; an SVG element."""
    figure, axes = new_figure(_WIDTH_INCHES, _HEIGHT_INCHES)
    reached = [point["reached"] for point in made["points"]]
    predicted = [point["predicted"] for point in made["points"]]
    ends = [min(reached + predicted), max(reached + predicted)]
    axes.plot(ends, ends, color=COLOURS["line"], linewidth=1)
    axes.plot(predicted, reached, "o", color=COLOURS["blue"], markersize=4, label="left out of the fit")
    goal, checked = made["goal"], made["checked"]
    if checked is not None:
        beside = [[max(0.0, goal["predicted"] - goal["low"])], [max(0.0, goal["high"] - goal["predicted"])]]
        axes.errorbar(
            [goal["predicted"]], [checked["goal"]], xerr=beside, fmt="D", color=COLOURS["orange"], markersize=5,
            capsize=4, label="on the best weights",
        )  # fmt: skip
    finish_axes(axes, "Goal of each run, by the law of the others", "predicted", "reached")
    return as_svg(figure)
