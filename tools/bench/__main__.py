"""`python -m tools.bench AREA`, which `make bench` calls for every area."""

from __future__ import annotations

import argparse
import importlib
import sys

AREAS = {
    "checkpoint": "how long training stands still for a checkpoint: in the background, waited for, torch.save",
    "compile": "what first use waits for: all kernels compiled from an empty cache, by kernel, group and in total",
    "data": "statistics and rules, language, MinHash and removal, measure: ours, datatrove, rensa, fastText",
    "families": "each family learns: a tiny model of each on the demo's tokens, tensor 2 × pipeline 2; loss and speed",
    "parallel": "two processes against one: tensor, sequence, pipeline, data; speed, and where the time goes",
    "stages": "measure and dedup from files to files: speed of one process and two, memory as the corpus grows",
    "tokens": "text to token files and token files to batches: ours, Megatron-LM, datatrove; MB and tokens per second",
    "train": "training steps of a LLaMA shape: ours, a plain PyTorch loop, transformers; tokens per second and memory",
    "verdicts": "our rules beside datatrove's on the English documents, one by one, and what differs",
}
"""Area and what it compares; each is a module of this package with `main(arguments) -> int`."""


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description="Time our programs beside their peers.",
        epilog="\n".join(f"  {name:10} {text}" for name, text in AREAS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "area", choices=sorted(AREAS), help="what to time; each has settings of its own, see AREA --help"
    )
    given, rest = parser.parse_known_args()
    return int(importlib.import_module(f"tools.bench.{given.area}").main(rest))


if __name__ == "__main__":
    sys.exit(main())
