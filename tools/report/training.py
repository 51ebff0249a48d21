"""The parts about training: curves, what happened, where the time went, what was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from typing import Any

from foundation.progress import format_seconds
from pretrain.data.consumed import consumed_by_dataset
from pretrain.data.loader import training_samples
from pretrain.spikes.ledger import Entry, describe, skipped_ranges
from tools.charts import Series, bars, line_chart, number, smoothed
from tools.report.markup import missing, table
from tools.report.run import Run

SHOWN_EVENTS = 40
QUIET_EVENTS = ("saved", "pass seconds")
"""Events that have a place elsewhere, or are too many to list one by one."""
CHARTED_TASKS = 12
"""Number of tasks with a curve at most; the table has all."""
TOLD_ELSEWHERE = ("kind", "step", "event", "time", "peak_flops_per_device", "peak_source")
"""Fields of an event that have columns of their own."""


def training_part(run: Run) -> str:
    """The curves."""
    loss = run.points("train", "loss")
    if not loss:
        return missing("No step has been trained yet", "deepspeed --module pretrain --config FILE")
    marks = [(line["step"], "resumed") for line in run.events("resumed")]
    marks += [(entry.onset, "spike") for entry in run.spikes if entry.kind in ("transient", "rollback")]
    held_out = run.points("evaluation", "loss")
    norm = run.points("train", "gradient_norm")
    limit = run.settings.optimizer.gradient_clipping if run.settings else None
    norm_lines = _noisy(norm)
    if limit is not None and norm:
        norm_lines.append(Series("limit", f"limit {limit:g}", [(norm[0][0], limit), (norm[-1][0], limit)]))
    loss_lines = [*_noisy(loss), Series("second", "held out", held_out, dots=True)]
    charts = [
        line_chart("Loss, nats per token", loss_lines, x_label="step", marks=marks),
        line_chart("Gradient norm, unclipped", norm_lines, x_label="step", marks=marks, zero=True),
    ]
    rate = [Series("strong", "", run.points("train", "learning_rate"))]
    charts.append(line_chart("Learning rate", rate, x_label="step", zero=True))
    for title, name, factor in (
        ("Embedding gradient norm", "embedding_gradient_norm", 1.0),
        ("Largest logit", "largest_logit", 1.0),
        ("Throughput, tokens per second", "tokens_per_second", 1.0),
        ("Share of peak speed (MFU), %", "mfu", 100.0),
        ("Goodput, % of the time", "goodput", 100.0),
        ("Samples of a step", "global_batch_size", 1.0),
    ):
        points = [(step, value * factor) for step, value in run.points("train", name)]
        if points and not (name == "global_batch_size" and len({value for _, value in points}) == 1):
            charts.append(line_chart(title, _noisy(points), x_label="step", zero=True))
    return f'<div class="charts">{"".join(charts)}</div>'


def _noisy(points: Sequence[tuple[float, float]]) -> list[Series]:
    return [Series("faint", "each step", points), Series("strong", "smoothed", smoothed(points))]


def evaluation_part(run: Run) -> str:
    """The held-out loss, step by step, and the tasks."""
    return _held_out_part(run) + _tasks_part(run) or "<p>Nothing has been evaluated yet.</p>"


def _held_out_part(run: Run) -> str:
    held_out = run.points("evaluation", "loss")
    if not held_out:
        return ""
    perplexity = dict(run.points("evaluation", "perplexity"))
    rows = [
        (f"{int(step):,}", f"{value:.4f}", f"{perplexity.get(step, float('nan')):,.2f}") for step, value in held_out
    ]
    shown = rows if len(rows) <= 12 else [*rows[:2], ("…", "", ""), *rows[-9:]]
    return table(("step", "held-out loss", "perplexity"), shown) + _by_source(run)


def _by_source(run: Run) -> str:
    """The last held-out loss of each source, highest first."""
    last = [line for line in run.metrics if line["kind"] == "evaluation"][-1]
    found = sorted(((last[key], key.removeprefix("loss/")) for key in last if key.startswith("loss/")), reverse=True)
    if len(found) < 2:
        return ""
    rows = [(name, f"{loss:.4f}", f"{last[f'tokens/{name}']:,}") for loss, name in found]
    return f"<p>By source at step {last['step']:,}:</p>" + table(("source", "held-out loss", "tokens"), rows)


def _tasks_part(run: Run) -> str:
    """A curve of each task that the settings name, and first and latest metrics of all tasks."""
    latest = run.task_metrics
    if not latest:
        return ""
    charts = []
    for task, metric in run.main_task_metrics[:CHARTED_TASKS]:
        curve = Series("strong", "", run.points("tasks", f"{task}/{metric}"), dots=True)
        charts.append(line_chart(f"{task}, {metric}", [curve], x_label="step"))
    rows = []
    for task, metrics in latest.items():
        for metric, value in metrics.items():
            step, first = run.points("tasks", f"{task}/{metric}")[0]
            rows.append((task, metric, f"{first:.4f} at step {int(step):,}", f"{value:.4f}"))
    head = ("task", "metric", "first", "latest")
    return f'<h3>Tasks</h3><div class="charts">{"".join(charts)}</div>' + table(head, rows)


def events_part(run: Run) -> str:
    """Starts, stops, rollbacks, slow nodes: what a person would ask about."""
    told = [line for line in run.metrics if line["kind"] == "event" and line.get("event") not in QUIET_EVENTS]
    if not told:
        return "<p>Nothing but training.</p>"
    out = []
    resumed = run.events("resumed")
    if resumed:
        steps = ", ".join(f"{line['step']:,}" for line in resumed)
        out.append(f"<p>Stopped and resumed at step {steps}.</p>")
    rows = [(f"{line['step']:,}", _clock(line), str(line["event"]), _details(line)) for line in told]
    if len(rows) > SHOWN_EVENTS:
        out.append(f"<p>The last {SHOWN_EVENTS} of {len(rows):,}.</p>")
    out.append(table(("step", "UTC", "event", "more"), rows[-SHOWN_EVENTS:], wide_last=True))
    return "".join(out)


def _clock(line: dict[str, Any]) -> str:
    """Time of an event in UTC; empty for runs of versions that did not record it."""
    return datetime.fromtimestamp(line["time"], timezone.utc).strftime("%m-%d %H:%M:%S") if "time" in line else ""


def _details(line: dict[str, Any]) -> str:
    parts = [f"{name} {value}" for name, value in line.items() if name not in TOLD_ELSEWHERE]
    text = ", ".join(parts)
    return text if len(text) <= 160 else f"{text[:157]}…"


def spikes_part(run: Run) -> str:
    """The ledger, in sentences."""
    if not run.spikes:
        return "<p>None.</p>"
    return "<ul>" + "".join(f"<li>{escape(describe(entry))}</li>" for entry in run.spikes) + "</ul>"


def nodes_part(run: Run) -> str:
    """Topology, the pace of each node and where time went."""
    out = []
    starts = run.events("started") + run.events("resumed")
    if starts:
        rows = [(f"{line['step']:,}", str(line["event"]), str(line.get("topology", ""))) for line in starts]
        out.append(table(("from step", "", "topology"), sorted(rows, key=lambda row: int(row[0].replace(",", "")))))
    paces = run.events("pass seconds")
    if paces:
        latest = paces[-1]
        seconds: dict[str, list[float]] = {}
        for value, node in zip(latest["by_rank"], latest["nodes"], strict=True):
            seconds.setdefault(node, []).append(value)
        means = {node: sum(values) / len(values) for node, values in seconds.items()}
        slowest = max(means.values()) or 1.0
        rows_of_nodes = [
            (escape(node), str(len(seconds[node])), f"{mean:.3f}", bars([("kept", mean / slowest, f"{mean:.3f} s")]))
            for node, mean in sorted(means.items(), key=lambda item: -item[1])[:20]
        ]
        out.append(f"<h3>Seconds in forward and backward passes, a step, before step {latest['step']:,}</h3>")
        out.append(table(("node", "ranks", "seconds", ""), rows_of_nodes, markup=True, wide_last=True))
    steps = sum(value for _, value in run.points("train", "step_seconds"))
    if steps:
        saving = sum(float(line["seconds"]) for line in run.events("saved") if "seconds" in line)
        rows = [("in steps", format_seconds(steps), ""), ("saving", format_seconds(saving), f"{saving / steps:.1%}")]
        out.append("<h3>Time</h3>" + table(("", "", "of the steps"), rows))
    return "".join(out) or "<p>Nothing is known yet.</p>"


def parity_part(run: Run) -> str:
    """The newest result of `check`."""
    found = run.parity
    if not found:
        return missing("These processes have not been compared with a single one", "altiplano check CONFIG")

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.1e}"

    verdict = "computes" if found["passed"] else "does NOT compute"
    rows = [
        (row["what"], row["verdict"], number(row["difference"]), number(row["bound"]), row["note"])
        for row in found["rows"]
    ]
    return (
        f'<p class="{"good" if found["passed"] else "bad"}">A tiny twin of the model under {escape(found["topology"])} '
        f"{verdict} what one process computes ({escape(found['precision'])}, {found['parameters']} parameters).</p>"
        + table(("what", "verdict", "difference", "bound", "where"), rows)
    )


def mixture_part(run: Run) -> str:
    """Table of the data that was trained on, counted from the plan of samples."""
    lines = [line for line in run.metrics if line["kind"] == "train"]
    if run.settings is None or not lines:
        return missing("Nothing has been trained on yet", "deepspeed --module pretrain --config FILE")
    position = int(lines[-1]["consumed_samples"])
    data = run.settings.data
    skipped = [*data.skipped_samples, *skipped_ranges(run.spikes)]
    try:
        reader = training_samples(run.settings, _found(data.mixture, run.train), skipped=skipped)
    except (ValueError, OSError) as error:
        return f'<p class="missing">The token files cannot be opened here: {escape(str(error))}</p>'
    consumed = consumed_by_dataset(reader, position)
    total = sum(entry.tokens for entry in consumed) or 1
    assert reader.order is not None  # training samples have one
    asked = dict(zip(reader.names, reader.order.phases[0].weights, strict=True))
    weights = sum(asked.values())
    rows = [
        (
            escape(entry.name),
            f"{entry.samples:,}",
            number(entry.tokens),
            f"{asked[entry.name] / weights:.1%}",
            f"{entry.tokens / total:.1%}",
            f"{entry.epochs:.3g}",
            bars([("kept", entry.tokens / total, f"{entry.tokens:,} tokens")]),
        )
        for entry in sorted(consumed, key=lambda entry: -entry.tokens)
    ]
    head = (
        "dataset",
        "samples",
        "tokens",
        "asked for at the start",
        "consumed",
        "epochs",
        "share of what was consumed",
    )
    note = f"<p>{position:,} samples, {total:,} tokens.</p>"
    if skipped:
        note += f"<p>Skipped: {', '.join(f'[{start:,}, {stop:,})' for start, stop in skipped)}.</p>"
    return note + table(head, rows, markup=True, wide_last=True)


def _found(mixture: Path, train: Path) -> Path:
    """Settings have the path as it was seen from where training was started; a run may have been moved since."""
    beside = train.parent / "tokens" / "mixture.yaml"
    return beside if not mixture.is_file() and beside.is_file() else mixture


def spike_count(entries: Sequence[Entry]) -> int:
    """Number of loss spikes."""
    return sum(entry.kind in ("transient", "rollback", "stop") for entry in entries)
