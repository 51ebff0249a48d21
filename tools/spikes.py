"""What spiked in a run and what was done: `altiplano spikes RUN`.

`--samples` writes the skipped samples as text, `--replay` tries other thresholds.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from foundation.configuration import load_config
from foundation.progress import summary_table
from pretrain.config import RESOLVED_FILE, TrainConfig
from pretrain.monitor.metrics import ABANDONED_FILE, METRICS_FILE, read_metrics
from pretrain.spikes.detector import SIGNS, Detector, DetectorSettings, Verdict
from pretrain.spikes.first_look import SPIKES_FOLDER
from pretrain.spikes.ledger import LEDGER_FILE, Entry, describe, read_ledger, rollbacks
from tools.charts import Series, line_chart

EXAMPLES = """examples:
  altiplano spikes runs/demo/train
  altiplano spikes runs/demo/train --picture spikes.svg
  altiplano spikes runs/demo/train --samples
  altiplano spikes runs/demo/train --replay
  altiplano spikes runs/demo/train --replay patience_steps=30 deviations=8"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano spikes",
        description="Lists the loss spikes of a run and what was done about them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="output folder of the training run")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="draw the loss, abandoned branches apart")
    parser.add_argument(
        "--samples",
        nargs="?",
        const="",
        metavar="BRANCH",
        help="write the skipped samples as text and compare them with the corpus; BRANCH such as abandoned-01, "
        "default: the last one",
    )
    parser.add_argument("--mixture", type=Path, help="with --samples: mixture.yaml, where the token files have moved")
    parser.add_argument(
        "--replay",
        nargs="*",
        metavar="SETTING=VALUE",
        help="run the detector over the metrics, with the run's settings and these changed",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, or 2 when something does not fit."""
    given = make_parser().parse_args(arguments)
    console = Console()
    try:
        if given.mixture is not None and given.samples is None:
            raise ValueError(f"--mixture {given.mixture}: has no effect without --samples")
        metrics = given.run / METRICS_FILE
        if not metrics.is_file():
            raise ValueError(f"{metrics}: no such file; give the output folder of a training run")
        if given.replay is not None:
            replay(console, given.run, given.replay)
        elif given.samples is not None:
            # With the libraries of data preparation, which nothing else here needs.
            from tools.skipped_text import write_skipped_texts

            write_skipped_texts(console, given.run, given.samples, given.mixture)
        else:
            show_events(console, given.run)
        if given.picture is not None:
            given.picture.write_text(picture(given.run), encoding="utf-8")
            console.print(Text(f"wrote {given.picture}"), soft_wrap=True)
    except (ValueError, OSError) as error:
        print(f"altiplano spikes: {error}", file=sys.stderr)
        return 2
    return 0


def show_events(console: Console, run: Path) -> None:
    """The ledger, a line for each event, and where the skipped samples can be read."""
    entries = read_ledger(run / LEDGER_FILE)
    if not entries:
        console.print("no spikes")
    for i, entry in enumerate(entries):
        back = [later.to_step for later in rollbacks(entries[i + 1 :]) if later.to_step is not None]
        abandoned = any(to_step < entry.step for to_step in back) and entry.kind == "transient"
        console.print(
            Text(f"{entry.time}  {describe(entry)}{'  (on an abandoned branch)' if abandoned else ''}"), soft_wrap=True
        )
    for folder in sorted((run / SPIKES_FOLDER).glob("*/")):
        console.print(
            Text(f"skipped samples: {folder}; as text: altiplano spikes {run} --samples {folder.name}"), soft_wrap=True
        )


def replay(console: Console, run: Path, changes: Sequence[str]) -> list[tuple[int, Verdict]]:
    """Ends of spikes that a detector with other settings sees in the kept branch of a run; shown as a table.

    Raises:
        ValueError: a setting that there is not, or that cannot be.
    """
    config = _config(run)
    detector = Detector(_settings(config, changes))
    starts = [phase.from_sample for phase in config.data.phases] if config else []
    found = []
    lines = [line for line in read_metrics(run / METRICS_FILE) if line["kind"] == "train"]
    for line in lines:
        signs = {name: float(line[name]) for name in SIGNS if name in line}
        verdict = detector.observe(
            line["step"],
            float(line["loss"]),
            signs,
            phase=sum(line["first_sample"] >= start for start in starts) if starts else 0,
            batch_size=line.get("global_batch_size", 1),
        )
        if verdict.state in ("transient", "persistent"):
            found.append((line["step"], verdict))
    rows = [
        (
            f"{step:,}",
            f"{verdict.onset:,}",
            verdict.state,
            "NaN" if verdict.peak == math.inf else f"× {verdict.peak:.2f}",
            verdict.reason,
        )
        for step, verdict in found
    ]
    title = f"{len(found)} spikes in {len(lines):,} steps"
    summary_table(title, rows, ("at step", "onset", "end", "peak", "why"), console=console)
    if detector.state != "ok":
        console.print("the last steps are suspect")
    return found


def _config(run: Path) -> TrainConfig | None:
    resolved = run / RESOLVED_FILE
    return load_config(TrainConfig, resolved) if resolved.is_file() else None


def _settings(config: TrainConfig | None, changes: Sequence[str]) -> DetectorSettings:
    base = config.spikes.detector.model_dump() if config else {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or name not in DetectorSettings.model_fields:
            raise ValueError(
                f"--replay {change}: give SETTING=VALUE with one of {', '.join(DetectorSettings.model_fields)}"
            )
        base[name] = yaml.safe_load(value)
    try:
        return DetectorSettings.model_validate(base)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"--replay: {'.'.join(map(str, first['loc']))} {first['msg']}".replace("  ", " ")) from None


def picture(run: Path) -> str:
    """The loss of the kept branch and of every abandoned one, as SVG, rollbacks marked."""
    kept = _points(read_metrics(run / METRICS_FILE))
    aside = run / ABANDONED_FILE
    branches: dict[str, list[dict[str, Any]]] = {}
    for line in read_metrics(aside) if aside.is_file() else []:
        branches.setdefault(line.get("branch", ""), []).append(line)
    series = [
        Series("second", "abandoned" if i == 0 else "", _points(lines)) for i, lines in enumerate(branches.values())
    ]
    marks = [
        (float(entry.to_step), f"back to {entry.to_step}") for entry in _rollbacks(run) if entry.to_step is not None
    ]
    return line_chart("Loss, nats per token", [Series("strong", "kept", kept), *series], x_label="step", marks=marks)


def _rollbacks(run: Path) -> list[Entry]:
    return rollbacks(read_ledger(run / LEDGER_FILE))


def _points(lines: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    pairs = [(float(line["step"]), float(line["loss"])) for line in lines if line["kind"] == "train"]
    return [(step, loss) for step, loss in pairs if math.isfinite(loss)]


if __name__ == "__main__":
    sys.exit(main())
