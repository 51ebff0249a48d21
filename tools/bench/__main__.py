"""`python -m tools.bench AREA`; `make bench` runs all areas and writes their tables into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

from tools.bench.page import PageError, check_page, circumstances, write_page

_TRAINING = ("torch", "deepspeed", "megatron-core")
AREAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "compile": (
        "what first use waits for: all kernels compiled from an empty cache, by kernel, group and in total",
        ("numba", "llvmlite"),
    ),
    "data": (
        "statistics and rules, language, MinHash and removal, measure: ours, datatrove, rensa, fastText",
        ("numba", "datatrove", "spacy", "rensa", "fasttext-predict"),
    ),
    "stages": (
        "measure and dedup from files to files: speed of one process and two, memory as the corpus grows",
        ("numba", "pyarrow"),
    ),
    "verdicts": (
        "our rules beside datatrove's on the English documents, one by one, and what differs",
        ("datatrove", "spacy"),
    ),
    "tokens": (
        "text to token files and token files to batches: ours, Megatron-LM, datatrove; MB and tokens per second",
        ("numba", "tokenizers", "gigatoken", "megatron-core", "datatrove"),
    ),
    "train": (
        "training steps of a LLaMA shape: ours, a plain PyTorch loop, transformers; tokens per second and memory",
        (*_TRAINING, "transformers"),
    ),
    "parallel": (
        "two processes against one: tensor, sequence, pipeline, data; speed, and where the time goes",
        _TRAINING,
    ),
    "checkpoint": (
        "how long training stands still for a checkpoint: in the background, waited for, torch.save",
        _TRAINING,
    ),
    "families": (
        "each family learns: a tiny model of each on the demo's tokens, tensor 2 × pipeline 2; loss and speed",
        _TRAINING,
    ),
}
"""What an area compares, and the packages whose versions stand beside its tables; each is a module of this package with
`main(arguments) -> int`, which hands its tables to `page.show`."""


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description="Time our programs beside their peers.",
        epilog="\n".join(f"  {name:10} {text}" for name, (text, _) in AREAS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "area", choices=["all", *AREAS], help="what to time; each has settings of its own, see AREA --help"
    )
    parser.add_argument(
        "--page", type=Path, help="a Markdown page into which the tables are written, such as docs/benchmarks.md"
    )
    given, rest = parser.parse_known_args()
    command = f"python -m tools.bench {' '.join([given.area, *rest])}"
    try:
        for area in AREAS if given.area == "all" else [given.area]:
            if given.page:
                check_page(given.page, area)
    except PageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if given.area == "all":
        return _all(given.page, rest)
    heading = circumstances(command, AREAS[given.area][1])
    status = int(importlib.import_module(f"tools.bench.{given.area}").main(rest))
    if given.page and not status:
        write_page(given.page, given.area, heading)
    return status


def _all(page: Path | None, rest: list[str]) -> int:
    """Every area in a process of its own; one that fails does not keep the others from running."""
    if rest:
        print(f"error: {' '.join(rest)}: all areas are run with their own settings; name one area", file=sys.stderr)
        return 2
    failed = []
    for area in AREAS:
        print(f"== {area}: {AREAS[area][0]}", flush=True)
        command = [sys.executable, "-m", "tools.bench", area, *(["--page", str(page)] if page else [])]
        if subprocess.run(command).returncode:
            failed.append(area)
    told = f" and stand in {page}" if page else ""
    print(f"failed: {', '.join(failed)}; see above" if failed else f"all {len(AREAS)} areas were measured{told}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
