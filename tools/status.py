"""Show the state of a run as a table: `altiplano status RUN`, from any machine that sees its folder, while it runs.

With `--follow` the table is renewed until Ctrl-C. With `--best` it is that of the checkpoints with the lowest held-out
losses, as BLOOMZ's were chosen (Muennighoff et al. 2022, arXiv:2211.01786).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from foundation.progress import format_seconds, summary_table
from pretrain.checkpoint.layout import complete_checkpoints, step_of
from pretrain.launch.node_check import EXCLUDED_NODES_FILE
from pretrain.monitor.watchdog import HANGS_FOLDER
from tools.report.run import Run
from tools.report.training import spike_count

RECENT_STEPS = 50
FOLLOW_SECONDS = 5.0
STALL_FACTOR = 10
"""A run is called silent when nothing was written for so many times the length of a step, and for a minute at least."""


EXAMPLES = """examples:
  altiplano status runs/demo
  altiplano status runs/llama-7b --follow
  altiplano status runs/bloomz-7b1 --best"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano status",
        description="Show the state of a training run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of the run, such as runs/demo, or its training output")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--follow", action="store_true", help="renew the table until Ctrl-C")
    which.add_argument(
        "--best", action="store_true", help="name the checkpoint with the lowest held-out loss, in all and by source"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = make_parser().parse_args(arguments)
    try:
        if given.best:
            print_best(Run(given.run))
            return 0
        if not given.follow:
            print_status(Run(given.run), Console())
            return 0
        console = Console()
        while True:
            run = Run(given.run)
            console.clear()
            print_status(run, console)
            time.sleep(FOLLOW_SECONDS)
    except KeyboardInterrupt:
        return 0
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def print_best(run: Run) -> None:
    """The checkpoint with the lowest held-out loss, in all and for each source.

    Raises:
        ValueError: no checkpoint was saved at a step with an evaluation.
    """
    checkpoints = complete_checkpoints(run.train / "checkpoints")
    saved = {step_of(folder): folder for folder in checkpoints}
    evaluations = {line["step"]: line for line in run.metrics if line["kind"] == "evaluation"}
    both = sorted(saved.keys() & evaluations.keys())
    if not both:
        raise ValueError(
            f"{run.train}: {len(saved)} checkpoints and {len(evaluations)} evaluations, but none at the same step; "
            "make checkpoint.every_steps a multiple of evaluation.every_steps"
        )
    rows = []
    for name in (name for name in evaluations[both[-1]] if name == "loss" or name.startswith("loss/")):
        losses = {step: evaluations[step][name] for step in both if name in evaluations[step]}
        best = min(losses, key=lambda step: losses[step])
        lowest = min(line[name] for line in evaluations.values() if name in line)
        rows.append(
            (
                name.removeprefix("loss/") if "/" in name else "all",
                saved[best].name,
                _number(losses[best]),
                _number(losses[both[-1]]),
                _number(lowest) if lowest < losses[best] else "",
            )
        )
    columns = ("source", "best checkpoint", "its held-out loss", f"at step {both[-1]:,}", "lower, but not saved")
    summary_table(f"{run.train}: {len(both)} checkpoints with an evaluation", rows, columns)
    print(f"next: altiplano convert to-hf {run.train / 'checkpoints' / rows[0][1]} OUT")


def print_status(run: Run, console: Console) -> None:
    """The tables."""
    steps = [line for line in run.metrics if line["kind"] == "train"]
    if not steps:
        console.print(f"{run.train}: no step has been trained yet", soft_wrap=True)
        return
    summary_table(f"{run.train}", status_rows(run, steps, datetime.now().timestamp()), console=console)
    paces = run.events("pass seconds")
    if paces:
        latest = paces[-1]
        seconds: dict[str, list[float]] = {}
        for value, node in zip(latest["by_rank"], latest["nodes"], strict=True):
            seconds.setdefault(node, []).append(value)
        middle = statistics.median(latest["by_rank"]) or 1.0
        rows = [
            (node, len(values), statistics.mean(values), f"{statistics.mean(values) / middle:.2f}")
            for node, values in sorted(seconds.items(), key=lambda item: -statistics.mean(item[1]))
        ]
        columns = ("node", "ranks", "seconds in passes a step", "of the median")
        summary_table(f"Pace, step {latest['step']:,}", rows[:10], columns, console=console)


def status_rows(run: Run, steps: Sequence[dict[str, Any]], now: float) -> list[tuple[str, str]]:
    """(what, value) of everything that is known.

    Args:
        steps: the run's lines of training.
        now: seconds since the epoch.
    """
    last, recent = steps[-1], steps[-RECENT_STEPS:]
    total = run.settings.schedule.total_steps if run.settings else None
    seconds = statistics.median(line["step_seconds"] for line in recent)
    silence = now - (run.train / "metrics.jsonl").stat().st_mtime
    ended = [line for line in run.metrics if line.get("event") == "stopped"]
    if total is not None and last["step"] >= total:
        state = "done"
    elif ended and ended[-1]["step"] >= last["step"]:
        state = f"stopped: {ended[-1].get('reason', '')}"
    elif silence > max(60.0, STALL_FACTOR * seconds):
        state = f"silent for {format_seconds(silence)}: waiting in the queue, hung or dead"
    else:
        state = f"goes on, last sign of life {format_seconds(silence)} ago"
    rows = [("state", state), ("step", f"{last['step']:,}" + (f" of {total:,}" if total else ""))]
    if total is not None and last["step"] < total:
        rows.append(("time left", format_seconds((total - last["step"]) * seconds)))
    before = recent[0]["loss"] if len(recent) > 1 else None
    rows.append(
        ("loss", _number(last["loss"]) + (f", {len(recent) - 1} steps ago {_number(before)}" if before else ""))
    )
    held_out = [line for line in run.metrics if line["kind"] == "evaluation"]
    if held_out:
        rows.append(("held-out loss", f"{_number(held_out[-1]['loss'])} at step {held_out[-1]['step']:,}"))
    for task, metric in run.main_task_metrics:
        step, value = run.points("tasks", f"{task}/{metric}")[-1]
        rows.append((f"{task}, {metric}", f"{value:.4f} at step {int(step):,}"))
    rows.append(("gradient norm", _number(last["gradient_norm"])))
    rows.append(("learning rate", f"{last['learning_rate']:.3g}"))
    rows.append(("tokens", f"{last['consumed_tokens']:,}"))
    speed = statistics.median(line["tokens_per_second"] for line in recent)
    rows.append(("tokens per second", f"{speed:,.0f}, {seconds:.3g} s a step"))
    for name, title, of in (("mfu", "share of peak speed (MFU)", run.peak), ("goodput", "goodput", "")):
        if isinstance(last.get(name), float):
            rows.append((title, f"{last[name]:.1%}" + (f" of {of}" if of else "")))
    if run.topology:
        rows.append(("processes", f"{run.processes}: {run.topology}"))
    saved = run.events("saved")
    if saved:
        rows.append(
            ("newest checkpoint", f"step {saved[-1]['step']:,}, {last['step'] - saved[-1]['step']:,} steps ago")
        )
    rows.append(("starts", f"{len(run.events('started')) + len(run.events('resumed'))}"))
    rows.append(("spikes", f"{spike_count(run.spikes)}"))
    slow = run.events("straggler")
    if slow:
        rows.append(("slow", f"{', '.join(slow[-1]['nodes'])} at step {slow[-1]['step']:,}: × {slow[-1]['ratio']}"))
    for name, title in ((EXCLUDED_NODES_FILE, "excluded nodes"), (HANGS_FOLDER, "hangs")):
        path = run.train / name
        if path.is_file():
            nodes = {line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()}
            rows.append((title, ", ".join(sorted(nodes))))
        elif path.is_dir():
            folders = sorted(path.iterdir())
            rows.append((title, f"{len(folders)}, the last one in {folders[-1]}" if folders else "0"))
    return rows


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
