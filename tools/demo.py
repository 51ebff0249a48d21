"""The whole way on this machine's own text: `altiplano demo`, which `make demo` calls.

Runs the same commands that anybody would type, one after the other, and shows each. What is done already is skipped: by
the commands themselves where they keep records, and here where even looking would take a while.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from foundation.configuration import load_config
from foundation.progress import format_seconds, summary_table
from pretrain.checkpoint.layout import INDEX_FILE
from pretrain.checkpoint.read import CheckpointReader
from pretrain.config import TrainConfig
from pretrain.monitor.metrics import read_metrics
from tools.configs import copy_configs
from tools.demo_chat import LESSONS, chat_demo
from tools.hugging_face.verify import RESULT_FILE
from tools.steps import Steps, altiplano, finished_steps, installed_command

DATA_CONFIG = Path("configs/data/demo.yaml")
TRAIN_CONFIG = Path("configs/train/demo.yaml")
SHOWN_TEXTS = 3
EXAMPLES = """examples:
  altiplano demo
      everything is in runs/demo; run it again, and finished steps are skipped
  altiplano demo --chat
      a tiny model learns to answer, from nothing, in runs/demo-chat and runs/demo-chat-lora
  rm -r runs/demo; altiplano demo
      from the beginning"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano demo",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--chat", action="store_true", help="instead, a tiny model that learns to answer, with all weights and adapters"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or that of the command that failed."""
    given = make_parser().parse_args(arguments)
    started = time.monotonic()
    console = Console()
    chat_configs = [path for lesson in LESSONS for path in (lesson.data_config, lesson.train_config)]
    if not all(path.is_file() for path in (DATA_CONFIG, TRAIN_CONFIG, *chat_configs)):
        console.print("The configurations come first: they are copied to ./configs (`altiplano configs copy`)")
        try:
            copy_configs(Path("configs"))
        except OSError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    if given.chat:
        return chat_demo(Steps(console), console)
    train = load_config(TrainConfig, TRAIN_CONFIG)
    run = train.output.parent
    checkpoints, hugging_face = train.output / "checkpoints", run / "hf"
    parallel = train.parallel
    eight = parallel.processes
    total, first = train.schedule.steps, train.checkpoint.every_steps

    def launch(processes: int, *overrides: str) -> list[str]:
        program = [*(installed_command("deepspeed") or ["deepspeed"]), "-q", "--num_gpus", str(processes)]
        return [*program, "--module", "pretrain", "--config", str(TRAIN_CONFIG), *overrides]

    step = Steps(console)
    step.run("1. text to token files", [*altiplano(), "data", "run", "--config", str(DATA_CONFIG)])
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
        step.run(title, [*altiplano(), "convert", "to-hf", str(checkpoints), str(hugging_face)])
        step.run("", [*altiplano(), "convert", "verify", str(checkpoints), str(hugging_face)])
    step.run("5. the page about it all", [*altiplano(), "report", str(run)])
    summarise(console, run, time.monotonic() - started)
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
