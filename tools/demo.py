"""The whole way on this machine's own text: `altiplano demo`, which `make demo` calls.

Runs the same commands that anybody would type, one after the other, and shows each. What is done already is skipped: by
the commands themselves where they keep records, and here where even looking would take a while.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text

from foundation.configuration import load_config
from foundation.progress import format_seconds, summary_table
from pretrain.checkpoint.layout import INDEX_FILE, CheckpointError
from pretrain.checkpoint.read import CheckpointReader
from pretrain.config import TrainConfig
from pretrain.monitor.metrics import read_metrics
from tools.configs import copy_configs
from tools.hugging_face.verify import RESULT_FILE

DATA_CONFIG = Path("configs/data/demo.yaml")
TRAIN_CONFIG = Path("configs/train/demo.yaml")
SHOWN_TEXTS = 3
EXAMPLES = """examples:
  altiplano demo
      everything is in runs/demo; run it again, and finished steps are skipped
  rm -r runs/demo; altiplano demo
      from the beginning"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    return argparse.ArgumentParser(
        prog="altiplano demo",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or that of the command that failed."""
    make_parser().parse_args(arguments)
    started = time.monotonic()
    console = Console()
    if not (DATA_CONFIG.is_file() and TRAIN_CONFIG.is_file()):
        console.print("The configurations come first: they are copied to ./configs (`altiplano configs copy`)")
        try:
            copy_configs(Path("configs"))
        except OSError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    train = load_config(TrainConfig, TRAIN_CONFIG)
    run = train.output.parent
    checkpoints, hugging_face = train.output / "checkpoints", run / "hf"
    altiplano = installed_command("altiplano") or [sys.executable, "-m", "tools"]
    parallel = train.parallel
    eight = parallel.tensor * parallel.pipeline * (parallel.data or 1)
    total, first = train.schedule.steps, train.checkpoint.every_steps

    def launch(processes: int, *overrides: str) -> list[str]:
        program = [*(installed_command("deepspeed") or ["deepspeed"]), "-q", "--num_gpus", str(processes)]
        return [*program, "--module", "pretrain", "--config", str(TRAIN_CONFIG), *overrides]

    step = Steps(console)
    step.run("1. text to token files", [*altiplano, "data", "run", "--config", str(DATA_CONFIG)])
    done = finished_steps(checkpoints)
    for title, last, command in (
        (
            f"2. train on tensor {parallel.tensor} × pipeline {parallel.pipeline} × data {parallel.data}, "
            f"{eight} processes; stop at step {first}",
            first,
            launch(eight, f"stop_after_step={first}"),
        ),
        (
            "3. go on from the checkpoint, on data 2: another topology, the same training",
            total,
            launch(2, "parallel.tensor=1", "parallel.pipeline=1", "batch.micro_batch_size=4"),
        ),
    ):
        if done >= last:
            step.skip(title, f"{checkpoints} has step {done}")
        else:
            step.run(title, command)
    title = "4. export to Hugging Face format, compare with transformers, generate"
    if is_verified(checkpoints, run / RESULT_FILE):
        step.skip(title, f"{hugging_face} is of the newest checkpoint")
    else:
        shutil.rmtree(hugging_face, ignore_errors=True)  # of an earlier checkpoint, or never compared
        step.run(title, [*altiplano, "convert", "to-hf", str(checkpoints), str(hugging_face)])
        step.run("", [*altiplano, "convert", "verify", str(checkpoints), str(hugging_face)])
    step.run("5. the page about it all", [*altiplano, "report", str(run)])
    summarise(console, run, time.monotonic() - started)
    return 0


def installed_command(name: str) -> list[str] | None:
    """A program of this Python environment, whether or not the environment is activated; None when it has none."""
    path = Path(sys.executable).with_name(name)
    return [str(path)] if path.is_file() else None


class Steps:
    """Shows and runs commands; the first that fails ends the demo with its exit code."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def run(self, title: str, command: Sequence[str]) -> None:
        self._title(title)
        shown = [Path(command[0]).name, *command[1:]]
        self._console.print(Text(f"$ {shlex.join(shown)}", style="dim"), soft_wrap=True)
        environment = dict(os.environ)
        if not torch.cuda.is_available():
            environment.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed's launcher warns that it found no GPU
        code = subprocess.run(command, check=False, env=environment).returncode
        if code:
            self._console.print(Text(f"{title}: the command above ended with exit code {code}", style="bold red"))
            self._console.print("What was finished is kept: mend what it says and run the demo again.")
            sys.exit(code)

    def skip(self, title: str, reason: str) -> None:
        self._title(title)
        self._console.print(f"done already: {reason}", soft_wrap=True)

    def _title(self, title: str) -> None:
        if title:
            self._console.print()
            self._console.rule(Text(title, style="bold"), align="left")


def finished_steps(checkpoints: Path) -> int:
    """Steps of the newest checkpoint; 0 when there is none or it is damaged, which the trainer reports."""
    try:
        return CheckpointReader(checkpoints).step
    except CheckpointError:
        return 0


def is_verified(checkpoints: Path, result: Path) -> bool:
    """Whether the newest checkpoint has been exported and compared since it was written."""
    index = CheckpointReader(checkpoints).path / INDEX_FILE
    return result.is_file() and result.stat().st_mtime > index.stat().st_mtime


def summarise(console: Console, run: Path, seconds: float) -> None:
    """Print what happened, in numbers, and where everything is."""
    ledger = json.loads((run / "ledger.json").read_text())
    lines = read_metrics(run / "train" / "metrics.jsonl")
    steps = [line for line in lines if line["kind"] == "train"]
    held_out = [line for line in lines if line["kind"] == "evaluation"]
    check = json.loads((run / RESULT_FILE).read_text())
    documents = ledger["documents"]
    reasons = list(documents["by_reason"].items())
    dropped = "\n".join(f"{count:,} {reason}" for reason, count in reasons[:6])
    if len(reasons) > 6:
        dropped += f"\n{sum(count for _, count in reasons[6:]):,} for {len(reasons) - 6} other reasons"
    console.print()
    summary_table(
        f"Altiplano's demo, {format_seconds(seconds)}",
        [
            ("documents in", f"{documents['in']:,}"),
            ("kept", f"{documents['kept']:,}"),
            ("dropped", f"{documents['in'] - documents['kept']:,}, by first reason:\n{dropped}"),
            ("tokens", f"{ledger['tokens']['train']:,} to train on, {ledger['tokens']['heldout']:,} held out"),
            ("trained", f"{steps[-1]['step']:,} steps, {steps[-1]['consumed_tokens']:,} tokens"),
            ("loss, nats per token", f"{steps[0]['loss']:.3f} first, {steps[-1]['loss']:.3f} last"),
            ("held-out loss", f"{held_out[0]['loss']:.3f} first, {held_out[-1]['loss']:.3f} last"),
            ("logits against transformers", f"largest difference {check['max_abs_difference']:.1e}"),
            ("", ""),
            ("text and verdicts", f"{run}/corpus, {run}/ledger.html"),
            ("tokens and mixture", f"{run}/tokens/mixture.yaml"),
            ("metrics and checkpoints", f"{run}/train"),
            ("model for transformers", f"{run}/hf"),
            ("the page to look at", f"{run}/report.html"),
        ],
    )
    show_text(console, check["samples"][:SHOWN_TEXTS])
    console.print(
        "Next: open the page; ask why a document went (altiplano data why ID --config configs/data/demo.yaml); "
        "copy the two configs and put your own text in.",
        soft_wrap=True,
    )


def show_text(console: Console, samples: Sequence[Mapping[str, str]]) -> None:
    """Print the beginnings of held-out documents in bold, each with what the model went on to write."""
    console.rule(Text("what it writes after beginnings of held-out documents (bold)", style="bold"), align="left")
    for sample in samples:
        written = sample["continuation"]
        if "\n" in written.strip():
            written = written[: written.rfind("\n")]  # the last line was cut by the limit of tokens
        text = Text(sample["prompt"], style="bold").append(written, style="not bold")
        console.print(text, "", sep="\n", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
