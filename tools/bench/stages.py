"""Stages as users run them, from files to files: speed of one and two processes, and memory as the corpus grows.

Speed is measured on four copies of the corpus, so that two processes have enough shards to finish at about the same
time. Memory is measured with every line of the corpus as a document, to have many of them: on a quarter of the lines
and on all. Every figure comes from a process of its own that has first run the stage on a small corpus, so that
imports, compilation and starting workers are not counted. MB are of UTF-8 text.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.config import DataConfig
from data_prep.dedup.stage import dedup
from data_prep.extract import extract
from data_prep.run.commit_records import restart
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import freeze_manifest, load_manifest
from data_prep.signals.measure import measure
from foundation.progress import Progress
from tools.bench.data import CORPUS, CORPUS_HELP, load, no_corpus
from tools.bench.memory import OwnMemory, peak_bytes
from tools.bench.page import show

STAGES = {"measure": measure, "dedup": dedup}
_WARM = "warm"
_SHARD_BYTES = 4_000_000
_TIMES = 4


def main(arguments: list[str]) -> int:
    """Make the corpora, run each stage in its own processes, and print two tables."""
    parser = argparse.ArgumentParser(prog="altiplano bench stages", description=__doc__)
    parser.add_argument("--corpus", type=Path, default=CORPUS, help=CORPUS_HELP)
    parser.add_argument(
        "--megabytes", type=float, default=50, help="megabytes of the corpus to use, sampled at equal steps"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-bytes", type=int, default=10_000_000, help="value of dedup.memory_bytes")
    parser.add_argument("--one", nargs=3, metavar=("CORPUS", "STAGE", "WORKERS"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(time_one(given.folder, given.one, given.memory_bytes)))
        return 0
    if fault := no_corpus(given.corpus):
        print(fault, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        texts = [text for text, _ in load(given.corpus, given.megabytes)]
        lines = [line for text in texts for line in text.split("\n") if line.strip()]
        corpora = {_WARM: texts[:64], "texts": texts * _TIMES, "quarter": lines[::4], "whole": lines}
        for name, taken in corpora.items():
            _extract(Path(folder), name, taken)
        asked = [("texts", "measure", 1), ("texts", "measure", 2)] * given.rounds
        asked += [(name, stage, 1) for stage in STAGES for name in ("quarter", "whole")]
        found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
        with Progress("bench stages", len(asked), "processes") as progress:
            for one in asked:
                command = [sys.executable, "-m", "tools.bench", "stages", "--folder", folder]
                command += ["--memory-bytes", str(given.memory_bytes), "--one", *map(str, one)]
                done = subprocess.run(
                    command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
                )
                if done.returncode:
                    print(f"{' '.join(map(str, one))} did not run:\n{done.stderr}", file=sys.stderr)
                    return 1
                found.setdefault(one, []).append(json.loads(done.stdout.splitlines()[-1]))
                progress.advance()
    print_results(found)
    return 0


def _config(folder: Path, name: str, workers: int = 1, memory_bytes: int = 10**9) -> DataConfig:
    source = {"name": name, "kind": "jsonl", "paths": [str(folder / f"{name}.jsonl")], "rules": []}
    return DataConfig.model_validate(
        {
            "output": folder / name,
            "workers": workers,
            "shard_bytes": 20_000 if name == _WARM else _SHARD_BYTES,
            "sources": [source],
            "dedup": {"memory_bytes": memory_bytes},
        }
    )


def _extract(folder: Path, name: str, texts: Sequence[str]) -> None:
    (folder / f"{name}.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8"
    )
    config = _config(folder, name)
    run = RunDirectory(config.output)
    freeze_manifest(config, run)
    extract(config, run)


def time_one(folder: Path, asked: tuple[str, str, str], memory_bytes: int) -> dict[str, Any]:
    """Run a stage on the small corpus, then time it on the named one; the peak is that of the whole process."""
    name, stage, workers = asked
    for corpus in (_WARM, name):
        config = _config(folder, corpus, int(workers), memory_bytes)
        run = RunDirectory(config.output)
        restart(run, stage)
        before = _processor_seconds()
        started = time.perf_counter()
        with OwnMemory() as own:
            STAGES[stage](config, run)
        seconds = time.perf_counter() - started
        worked = _processor_seconds() - before
    sizes = [
        pq.read_table(run.signals / f"{shard}.parquet", columns=["byte_count"]).column(0).to_numpy()
        for shard in load_manifest(run).shard_names
    ]
    return {
        "documents": sum(map(len, sizes)),
        "bytes": int(sum(part.sum() for part in sizes)),
        "seconds": seconds,
        "processor_seconds": worked,
        "peak_bytes": peak_bytes(),
        "own_bytes": own.peak_bytes,
    }


def _processor_seconds() -> float:
    """Processor seconds of this process and of its workers that have ended."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def print_results(found: dict[tuple[str, str, int], list[dict[str, Any]]]) -> None:
    """Print the medians of speed and the peaks of memory."""
    alone, together = found["texts", "measure", 1], found["texts", "measure", 2]
    size = alone[0]["bytes"] / 1e6
    wall = [statistics.median(run["seconds"] for run in runs) for runs in (alone, together)]
    worked = statistics.median(run["processor_seconds"] for run in alone)
    rows = [
        ("measure, one process", f"{size / worked:.2f}", f"{size / wall[0]:.2f}", ""),
        ("measure, two processes", "", f"{size / wall[1]:.2f}", f"{wall[0] / wall[1]:.2f}"),
    ]
    title = f"{size:.1f} MB, {alone[0]['documents']:,} documents, {len(alone)} rounds, medians"
    show(title, rows, ("stage", "MB / processor s", "MB / s", "times one process"))
    memory: list[tuple[str, ...]] = []
    for stage in STAGES:
        few, many = (found[name, stage, 1][0] for name in ("quarter", "whole"))
        for run in (few, many):
            megabytes = (f"{run[key] / 1e6:.0f}" for key in ("bytes", "own_bytes", "peak_bytes"))
            memory.append((stage, f"{run['documents']:,}", *megabytes))
    show("Memory", memory, ("stage", "documents", "MB of text", "its own, MB", "with mapped files, MB"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
