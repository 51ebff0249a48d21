"""`altiplano bench AREA`; `make bench` runs all areas and writes their tables into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tools.bench.page import PageError, check_page, circumstances, write_page


class Area(NamedTuple):
    """Contenders timed together: a module of this package whose `main(arguments) -> int` calls `page.show`."""

    compares: str
    packages: tuple[str, ...]
    """Packages whose versions are printed with the tables."""
    quick: str
    """Settings under which the area finishes within about a minute."""
    needs_gpu: bool = False
    """Whether its own settings, other than the quick ones, are for a GPU."""


_TRAINING = ("torch", "deepspeed", "megatron-core")
_TINY = "--hidden 128 --layers 4 --vocabulary 512 --rounds 1"
AREAS = {
    "compile": Area(
        "what first use waits for: all kernels compiled from an empty cache, by kernel, group and in total",
        ("numba", "llvmlite"),
        "--rounds 1",
    ),
    "sources": Area(
        "raw files to documents, beside peers: Wikipedia, web pages, sites of Stack Exchange, books, PDF, code",
        ("mwparserfromhell", "wikiextractor", "trafilatura", "beautifulsoup4", "resiliparse", "pypdf", "pypdfium2"),
        "--megabytes 0.3 --rounds 1",
    ),
    "data": Area(
        "statistics and rules, language, MinHash and removal, measure: ours, datatrove, rensa, fastText",
        ("numba", "datatrove", "spacy", "rensa", "fasttext-predict"),
        "--megabytes 1 --slow-megabytes 0.2 --rounds 1",
    ),
    "stages": Area(
        "measure and dedup from files to files: speed of one process and two, memory as the corpus grows",
        ("numba", "pyarrow"),
        "--megabytes 2 --rounds 1",
    ),
    "scale": Area(
        "all stages of data preparation as the corpus grows: linearity, memory, and what 10 TB and 1 PB would take",
        ("numba", "pyarrow", "numpy"),
        "--documents 500 1000 2000 --long 300 --shard-bytes 200000",
    ),
    "verdicts": Area(
        "our rules beside datatrove's on the English documents, one by one, and what differs",
        ("datatrove", "spacy"),
        "--megabytes 0.5",
    ),
    "tokens": Area(
        "text to token files and token files to batches: ours, Megatron-LM, datatrove; MB and tokens per second",
        ("numba", "tokenizers", "gigatoken", "megatron-core", "datatrove"),
        "--megabytes 2 --rounds 1",
    ),
    "train": Area(
        "training steps of a LLaMA shape: ours, a plain PyTorch loop, transformers; tokens per second and memory",
        (*_TRAINING, "transformers"),
        f"{_TINY} --heads 4 --feed-forward 192 --sequence 64 --steps 1",
    ),
    "parallel": Area(
        "two processes against one: tensor, sequence, pipeline, data; speed, and where the time goes",
        _TRAINING,
        f"{_TINY} --sequence 64 --steps 1",
    ),
    "gpu": Area(
        "ten minutes on one GPU: ours, each optimisation on and off, compiled peers, kernels, bits",
        (*_TRAINING, "transformers", "torchtitan", "triton"),
        "--device cpu --shapes tiny --size 128 --peers --tests --seconds 400",
        needs_gpu=True,
    ),
    "checkpoint": Area(
        "how long training stands still for a checkpoint: in the background, waited for, torch.save",
        _TRAINING,
        _TINY,
    ),
    "convert": Area(
        "a checkpoint to Hugging Face's format and back: seconds beside a plain copy, memory, the same bytes",
        ("torch", "safetensors"),
        "--set model.layers=2 model.hidden_size=64 model.feed_forward_size=128 model.vocabulary_size=512",
    ),
    "families": Area(
        "each family learns: a tiny model of each on the demo's tokens, tensor 2 × pipeline 2; loss and speed",
        _TRAINING,
        "--steps 100 --only LLaMA BLOOM",
    ),
    "predict": Area(
        "ladders: published laws, and how often intervals hold; plans: published runs, and layouts on this machine",
        ("numpy", "scipy", "torch", "deepspeed"),
        "--ladders 4 --starts 45 --processes 2 --hidden 128 --layers 4 --sequence 64",
    ),
    "widths": Area(
        "the best learning rate by width, with rates that follow the width and with one for all",
        _TRAINING,
        "--widths 16 32 --rates 4e-3 --steps 2",
    ),
    "instructions": Area(
        "conversations to tokens and masks, packing, training on packs, adapters: ours, transformers, TRL, PEFT",
        (*_TRAINING, "tokenizers", "transformers", "trl", "peft"),
        "--conversations 1000 --packed 20000 --hidden 128 --layers 2 --sequence 64 --steps 1 --rounds 1",
    ),
}


EXAMPLES = """examples:
  altiplano bench data
      one area; its tables are printed
  altiplano bench train --help
      the settings of an area
  altiplano bench all --page docs/benchmarks.md
      what `make bench` does: every area, its tables written into the page
  altiplano bench all --quick
      little work of each, to see that everything runs"""


def make_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano bench",
        description="Time our programs beside their peers.",
        epilog="\n".join(["areas:", *(f"  {name:12} {area.compares}" for name, area in AREAS.items()), "", EXAMPLES]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,  # `AREA --help` shows the area's own help
    )
    parser.add_argument(
        "area", nargs="?", choices=["all", *AREAS], help="what to time; each area has its own settings, see AREA --help"
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this text, or the settings of an area")
    parser.add_argument(
        "--page", type=Path, help="a Markdown page to write the tables into, such as docs/benchmarks.md"
    )
    parser.add_argument(
        "--quick", action="store_true", help="run every area on very little work: proves that it runs, measures nothing"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = make_parser()
    given, rest = parser.parse_known_args(arguments)
    if given.area is None or (given.help and given.area == "all"):
        parser.print_help()
        return 0 if given.help else 2
    if given.help:
        rest = ["--help"]
    elif given.quick and given.area != "all":
        rest = AREAS[given.area].quick.split() + rest
    command = f"altiplano bench {' '.join([given.area, *rest])}"
    try:
        for area in AREAS if given.area == "all" else [given.area]:
            if given.page:
                check_page(given.page, area)
    except PageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if given.area == "all":
        return _all(given.page, given.quick, rest)
    heading = circumstances(command, AREAS[given.area].packages)
    status = int(importlib.import_module(f"tools.bench.{given.area}").main(rest))
    if given.page and not status:
        write_page(given.page, given.area, heading)
    return status


def _all(page: Path | None, is_quick: bool, rest: list[str]) -> int:
    """Run every area in a process of its own; a failing area does not stop the others."""
    if rest:
        print(f"error: {' '.join(rest)}: all areas are run with their own settings; name one area", file=sys.stderr)
        return 2
    failed, skipped = [], []
    options = [*(["--page", str(page)] if page else []), *(["--quick"] if is_quick else [])]
    for name, area in AREAS.items():
        print(f"== {name}: {area.compares}", flush=True)
        if area.needs_gpu and not is_quick and not has_gpu():
            print("skipped: there is no GPU", flush=True)
            skipped.append(name)
            continue
        if subprocess.run([sys.executable, "-m", "tools.bench", name, *options]).returncode:
            failed.append(name)
    told = f" and written into {page}" if page else ""
    measured = len(AREAS) - len(failed) - len(skipped)
    left_out = f"; skipped for lack of a GPU: {', '.join(skipped)}" if skipped else ""
    print(f"{measured} of {len(AREAS)} areas were measured{told}{left_out}")
    if failed:
        print(f"failed: {', '.join(failed)}; see above")
    return 1 if failed else 0


def has_gpu() -> bool:
    """Whether this machine has a GPU that torch can use."""
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
