"""Two runs in one page."""

from __future__ import annotations

import statistics
from typing import Any

from foundation.configuration import flat_settings
from tools.charts import Series, line_chart, smoothed
from tools.report.markup import section, table
from tools.report.page import whole_page
from tools.report.run import Run
from tools.report.training import spike_count

CURVES = (
    ("Loss, nats per token", "train", "loss", 1.0, False),
    ("Held-out loss, nats per token", "evaluation", "loss", 1.0, False),
    ("Gradient norm, unclipped", "train", "gradient_norm", 1.0, True),
    ("Embedding gradient norm", "train", "embedding_gradient_norm", 1.0, True),
    ("Largest logit", "train", "largest_logit", 1.0, True),
    ("Learning rate", "train", "learning_rate", 1.0, True),
    ("Throughput, tokens per second", "train", "tokens_per_second", 1.0, True),
    ("Share of peak speed (MFU), %", "train", "mfu", 100.0, True),
)
"""Title, kind and name in the metrics, factor, and whether the axis begins at zero."""


def comparison(one: Run, other: Run) -> str:
    """The page as HTML.

    Raises:
        ValueError: a run has no step yet.
    """
    for run in (one, other):
        if not run.points("train", "loss"):
            raise ValueError(f"{run.train}: no step has been trained yet, so there is nothing to compare")
    names = _names(one, other)
    sections = [
        section("Numbers", _numbers(one, other, names)),
        section("Curves", _curves(one, other, names)),
        section("What differs in the settings", _differences(one, other, names)),
    ]
    return whole_page(f"{names[0]} and {names[1]}", "Altiplano, two runs compared", sections)


def _names(one: Run, other: Run) -> tuple[str, str]:
    """The folders, with as many of their parents as tell them apart."""
    for length in range(1, 10):
        names = tuple("/".join(run.folder.resolve().parts[-length:]) for run in (one, other))
        if names[0] != names[1]:
            return names[0], names[1]
    return str(one.folder), str(other.folder)


def _curves(one: Run, other: Run, names: tuple[str, str]) -> str:
    charts = []
    for title, kind, name, factor, zero in CURVES:
        series = []
        for run, style, label in ((one, "strong", _short(names[0])), (other, "second", _short(names[1]))):
            points = [(step, value * factor) for step, value in run.points(kind, name)]
            noisy = kind == "train" and name != "learning_rate"
            series.append(
                Series(
                    style, label, smoothed(points) if noisy and points else points, dots=not noisy and len(points) < 100
                )
            )
        charts.append(line_chart(title, series, x_label="step", zero=zero))
    difference = _difference(one, other)
    if difference:
        title = "Loss of the second run less that of the first"
        charts.append(line_chart(title, [Series("strong", "", difference)], x_label="step"))
    return f'<div class="charts">{"".join(charts)}</div><p>Curves of single steps are smoothed.</p>'


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"…{name[-23:]}"


def _difference(one: Run, other: Run) -> list[tuple[float, float]]:
    losses = dict(one.points("train", "loss"))
    return [(step, loss - losses[step]) for step, loss in other.points("train", "loss") if step in losses]


def _numbers(one: Run, other: Run, names: tuple[str, str]) -> str:
    difference = _difference(one, other)
    rows: list[tuple[str, str, str]] = []

    def row(title: str, kind: str, name: str, form: str, last: bool = True) -> None:
        values = []
        for run in (one, other):
            points = [value for _, value in run.points(kind, name)]
            values.append(format(points[-1] if last else statistics.median(points), form) if points else "–")
        if values != ["–", "–"]:
            rows.append((title, values[0], values[1]))

    row("steps", "train", "step", ",")
    row("tokens", "train", "consumed_tokens", ",")
    row("last loss", "train", "loss", ".4f")
    row("last held-out loss", "evaluation", "loss", ".4f")
    row("tokens per second, median", "train", "tokens_per_second", ",.0f", last=False)
    row("share of peak speed (MFU), median", "train", "mfu", ".1%", last=False)
    row("goodput", "train", "goodput", ".1%")
    rows.append(("spikes", str(spike_count(one.spikes)), str(spike_count(other.spikes))))
    rows.append(("topology", one.topology, other.topology))
    for part in sorted({*one.versions, *other.versions}):
        rows.append((part, one.versions.get(part, "–"), other.versions.get(part, "–")))
    out = table(("", *names), rows)
    if difference:
        largest = max(difference, key=lambda point: abs(point[1]))
        same = all(value == 0 for _, value in difference)
        sentence = (
            f"The losses of all {len(difference):,} common steps are the same."
            if same
            else f"Of {len(difference):,} common steps the loss differs most at step {int(largest[0]):,}: "
            f"by {largest[1]:+.4g}."
        )
        out += f"<p>{sentence}</p>"
    return out


def _differences(one: Run, other: Run, names: tuple[str, str]) -> str:
    first, second = flat_settings(one.config or {}), flat_settings(other.config or {})
    rows = [
        (name, _shown(first.get(name)), _shown(second.get(name)))
        for name in sorted({*first, *second})
        if first.get(name) != second.get(name)
    ]
    return table(("setting", *names), rows) if rows else "<p>Nothing.</p>"


def _shown(value: Any) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
