"""Data preparation as the corpus grows: processor seconds of every stage at several sizes, and what they imply.

Synthetic documents (words by Zipf's law, one in 50 an exact copy, one in 20 a near-copy) go through all stages, a
process each, with one worker: short documents at three sizes and more, and longer ones. A stage takes something once,
for each document and for each byte; the three numbers are fitted by least squares of relative errors. What 10 TB and
1 PB would take is an extrapolation over four orders of magnitude: disks, networks and schedulers are not in it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from data_prep.compile_kernels import GROUPS, compile_kernels
from foundation.progress import Progress, format_seconds
from tools.bench.page import show
from tools.data_plan import Usage, parts_of_run, run_stage, usable_processes

SHORT, LONG = 60, 600
"""Words of a document."""
_WORDS = 20_000
_COPIED, _SIMILAR = 50, 20
"""One document in so many is a copy, or nearly one, of the document before."""
_ZIPF = 1.1
"""Exponent of the frequencies of words, near that of natural text."""
SIZES = {"10 TB": (5e9, 1e13), "1 PB": (5e11, 1e15)}
"""Documents and bytes of what is extrapolated to: web pages have about 2 kB of text."""
NODES, CORES = 100, 64


@dataclass(frozen=True)
class Measured:
    """A stage on a corpus; `seconds` on the clock."""

    documents: int
    bytes: int
    seconds: float
    usage: Usage


def main(arguments: list[str]) -> int:
    """Make the corpora, run all stages, and print three tables."""
    parser = argparse.ArgumentParser(prog="altiplano bench scale", description=__doc__)
    parser.add_argument(
        "--documents", type=int, nargs="+", default=[100_000, 300_000, 1_000_000], help="numbers of short documents"
    )
    parser.add_argument("--long", type=int, default=50_000, help="number of long documents")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--shard-bytes", type=int, default=16_000_000)
    given = parser.parse_args(arguments)
    corpora = [*((count, SHORT) for count in sorted(given.documents)), (given.long, LONG)]
    if len(corpora) < 4:
        print("bench scale: --documents needs three numbers, for a line and its error", file=sys.stderr)
        return 2
    compile_kernels(tuple(GROUPS))
    alone: dict[str, list[Measured]] = {stage: [] for stage in parts_of_run()}
    together: dict[str, Measured] = {}
    with (
        tempfile.TemporaryDirectory(dir=given.folder) as temporary,
        Progress("bench scale", (len(corpora) + 1) * len(alone), "stages") as progress,
    ):
        folder = Path(temporary)
        for number, (count, words) in enumerate(corpora):
            size = write_corpus(folder / f"{number}.jsonl", count, words)
            for stage, measured in _run(folder, number, 1, given.shard_bytes, count, size, progress):
                alone[stage].append(measured)
            if number == len(given.documents) - 1:
                together = dict(_run(folder, number, 2, given.shard_bytes, count, size, progress))
            (folder / f"{number}.jsonl").unlink()
    _show(alone, together, len(given.documents))
    return 0


def write_corpus(path: Path, count: int, words: int) -> int:
    """Write documents as JSON Lines; returns the bytes of their texts."""
    source = np.random.default_rng(words)
    spelled = _words()
    shares = 1 / np.arange(1, _WORDS + 1) ** _ZIPF
    bounds = np.cumsum(shares / shares.sum())
    size, last = 0, ""
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            if number % _COPIED != 1:
                chosen = [spelled[place] for place in np.searchsorted(bounds, source.random(words)).tolist()]
                if number % _SIMILAR == 2:
                    chosen = [*last.split(" ")[:-1], chosen[0]]
                last = " ".join(chosen)
            size += len(last)
            file.write(json.dumps({"text": last}) + "\n")
    return size


def _words() -> list[str]:
    source = random.Random(1)
    letters = "etaoinshrdlucmfwypvbgk"
    found: dict[str, None] = {}
    while len(found) < _WORDS:
        found["".join(source.choices(letters, k=1 + min(9, int(source.expovariate(0.25)))))] = None
    return list(found)


def _run(
    folder: Path, number: int, workers: int, shard_bytes: int, count: int, size: int, progress: Progress
) -> Iterator[tuple[str, Measured]]:
    root, path = folder / f"run-{number}-{workers}", folder / f"{number}-{workers}.yaml"
    config = {
        "output": str(root),
        "workers": workers,
        "shard_bytes": shard_bytes,
        "sources": [{"name": "words", "kind": "jsonl", "paths": [str(folder / f"{number}.jsonl")], "rules": []}],
        "tokenizer": {"vocabulary_size": 4096, "sample_bytes": 4_000_000},
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    root.mkdir()
    for name, stage in parts_of_run().items():
        started = time.perf_counter()
        usage = run_stage(stage, path, root)
        yield name, Measured(count, size, time.perf_counter() - started, usage)
        progress.advance()


def fitted(measured: Sequence[Measured]) -> tuple[float, float, float]:
    """Processor seconds once, for each document and for each byte; none is negative."""
    seconds = np.array([one.usage.processor_seconds for one in measured])
    terms = np.array([[1.0, one.documents, one.bytes] for one in measured]) / seconds[:, None]
    scale = terms.max(0)
    used = [0, 1, 2]
    while True:
        found = np.linalg.lstsq(terms[:, used] / scale[used], np.ones(len(measured)))[0]
        if found.min() >= 0:
            break
        del used[int(found.argmin())]
    numbers = dict(zip(used, (found / scale[used]).tolist(), strict=True))
    return numbers.get(0, 0.0), numbers.get(1, 0.0), numbers.get(2, 0.0)


def bent(measured: Sequence[Measured]) -> float:
    """How much more the largest corpus takes than the line through the two smallest says, as a share."""
    first, second, *_, last = measured
    slope = (second.usage.processor_seconds - first.usage.processor_seconds) / (second.documents - first.documents)
    expected = first.usage.processor_seconds + slope * (last.documents - first.documents)
    return last.usage.processor_seconds / expected - 1


def _show(alone: dict[str, list[Measured]], together: dict[str, Measured], short: int) -> None:
    largest = short - 1
    show(
        "Processor seconds of one process; documents of 60 words, and of 600",
        [
            (
                stage,
                *(f"{one.usage.processor_seconds:.1f}" for one in measured),
                f"{bent(measured[:short]):+.0%}",
                " / ".join(f"{one.usage.memory / 1e6:,.0f}" for one in measured[:short]),
                f"{measured[largest].seconds / together[stage].seconds:.2f}",
            )
            for stage, measured in alone.items()
        ],
        (
            "stage",
            *(f"{one.documents:,}, {one.bytes / 1e6:,.0f} MB" for one in alone["extract"]),
            "last, beyond the line of the first two",
            "MB of memory",
            "two workers, times as fast",
        ),
    )
    fits = {stage: fitted(measured) for stage, measured in alone.items()}
    rows, hours = [], dict.fromkeys(SIZES, 0.0)
    for stage, (once, by_document, by_byte) in fits.items():
        processes = usable_processes(stage, NODES * CORES, NODES * CORES, 1)
        implied = []
        for name, (documents, size) in SIZES.items():
            work = once + by_document * documents + by_byte * size
            if stage == "train-tokenizer":  # of a sample, whose size is a setting
                work = alone[stage][-1].usage.processor_seconds
            hours[name] += work / processes / 3600
            implied.append(f"{work / 3600:,.0f} core hours, {format_seconds(work / processes)}")
        rows.append((stage, f"{once:.1f}", f"{by_document * 1e6:.1f}", f"{by_byte * 1e9:.1f}", processes, *implied))
    rows.append(("all", "", "", "", "", *(f"{total:,.1f} hours" for total in hours.values())))
    show(
        f"Extrapolated to {NODES} nodes with {CORES} cores like this one's",
        rows,
        ("stage", "s once", "µs a document", "ns a byte", "processes", *SIZES),
    )
