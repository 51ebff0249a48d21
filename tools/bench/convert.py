"""Checkpoints to Hugging Face's format and back: seconds beside a plain copy's, memory, and equality.

A model with random weights in bf16 is written as a checkpoint, exported, imported and exported again; both exports must
have the same bytes. Before each step a plain copy reads the same files, writes as many bytes as the step will, and
syncs them; both begin with files that are not in the page cache. `--model configs/model/llama-7b.yaml` takes 70 GB of
disk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from foundation.atomic_files import write_json
from foundation.progress import Progress
from pretrain.config import ModelConfig
from pretrain.tuning import trained_shapes
from tools.bench.memory import OwnMemory
from tools.bench.page import show
from tools.hugging_face.files import CHECKSUM_FILE, PART_ELEMENTS, Parts
from tools.model_file import load_model_settings
from tools.starting_checkpoint import write_starting_checkpoint

STEPS = {"export": ("ours", "there"), "import": ("there", "ours"), "second export": ("ours", "again")}
"""Folders that each step reads and writes."""
_GROWTH = {"ours": 2.0, "there": 0.5, "again": 0.5}
"""Bytes written to each for each byte read: fp32 of a checkpoint, bf16 of an export."""
_IDLE = "idle"
"""What a process without work needs, which is subtracted from the others."""
_RANDOM = "random weights"
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class Step:
    """One measured step.

    Attributes:
        read, written: bytes of the files that it reads and writes.
        seconds, copy_seconds: its time, and that of the plain copy before it.
        cpu_seconds: of all its threads, in the kernel too.
        memory: peak of its anonymous memory, bytes, without what the libraries need.
    """

    read: int
    written: int
    seconds: float
    copy_seconds: float
    cpu_seconds: float
    memory: int

    @property
    def speed(self) -> float:
        """Its speed relative to the plain copy's."""
        return self.copy_seconds / self.seconds

    def sha256_seconds(self, bytes_per_second: float, cores: int) -> float:
        """Shortest time to hash all bytes: one thread hashes those that are read, another those that are written."""
        shortest = max(max(self.read, self.written), (self.read + self.written) / cores)
        return shortest / bytes_per_second


def main(arguments: list[str]) -> int:
    """Run every step in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(prog="altiplano bench convert", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("configs/model/llama3.2-1b.yaml"), help="its settings")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the model")
    parser.add_argument("--rounds", type=int, default=3, help="times that every step is measured (default 3)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        return _step(given.one, given.folder, given.model, given.set)
    if given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: must be at least 1")
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        found, is_same = measure(Path(temporary), given.model, given.set, given.rounds)
    cores, sha256 = len(os.sched_getaffinity(0)), sha256_rate()
    model = load_model_settings(given.model, given.set)
    title = (
        f"{given.model.stem}, vocabulary {model.vocabulary_size:,}, random weights in bf16; both exports have "
        f"{'the same' if is_same else 'DIFFERENT'} bytes; medians of {given.rounds} rounds; cores: {cores}, SHA-256 of "
        f"one: {sha256 / 1e9:.2f} GB/s"
    )
    show(title, [_row(name, found[name], sha256, cores) for name in STEPS], HEADS)
    return 0 if is_same else 1


HEADS = (
    "step",
    "GB read",
    "GB written",
    "seconds",
    "plain copy, s",
    "of a plain copy's speed",
    "in each round",
    "SHA-256 alone, s",
    "CPU s per GB read and written",
    "MB of memory beside libraries",
)


def _row(name: str, rounds: list[Step], sha256: float, cores: int) -> tuple[str, ...]:
    def middle(of: Callable[[Step], float]) -> float:
        return statistics.median(of(step) for step in rounds)

    first = rounds[0]
    return (
        name,
        f"{first.read / 1e9:.1f}",
        f"{first.written / 1e9:.1f}",
        f"{middle(lambda step: step.seconds):.1f}",
        f"{middle(lambda step: step.copy_seconds):.1f}",
        f"{middle(lambda step: step.speed):.2f}",
        " ".join(f"{step.speed:.2f}" for step in rounds),
        f"{first.sha256_seconds(sha256, cores):.1f}",
        f"{middle(lambda step: step.cpu_seconds) / (first.read + first.written) * 1e9:.2f}",
        f"{max(step.memory for step in rounds) / 1e6:,.0f}",
    )


def measure(folder: Path, model: Path, settings: list[str], rounds: int) -> tuple[dict[str, list[Step]], bool]:
    """Every step's measurements, and whether both exports had the same bytes in every round.

    Args:
        folder: empty; where to write.
        model: file of the model's settings, which `settings` change.
    """

    def run(name: str) -> dict[str, float]:
        command = [sys.executable, "-m", "tools.bench", "convert", "--one", name, "--folder", str(folder)]
        command += ["--model", str(model), "--set", *settings]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found

    found: dict[str, list[Step]] = {name: [] for name in STEPS}
    is_same = True
    with Progress("bench convert", 2 + len(STEPS) * rounds, "steps") as progress:
        libraries = run(_IDLE)["memory"]
        progress.advance()
        run(_RANDOM)
        progress.advance()
        for _ in range(rounds):
            for name, (source, target) in STEPS.items():
                files = [path for path in (folder / source).rglob("*") if path.is_file()]
                size = sum(path.stat().st_size for path in files)
                shutil.rmtree(folder / target, ignore_errors=True)
                _leave_cache(files)
                copy_seconds = plain_copy(files, int(size * _GROWTH[target]), folder / "copy")
                _leave_cache(files)
                one = run(name)
                memory = int(one["memory"] - libraries)
                written = _size(folder / target)
                found[name].append(Step(size, written, one["seconds"], copy_seconds, one["cpu_seconds"], memory))
                if name == "export":
                    shutil.rmtree(folder / source)
                progress.advance()
            is_same = is_same and _checksums(folder / "there") == _checksums(folder / "again")
            shutil.rmtree(folder / "there")
    return found, is_same


def plain_copy(files: Sequence[Path], size: int, target: Path) -> float:
    """Seconds to read files and write `size` bytes of them, some twice where that is more, to a file that is synced and
    removed."""
    read, total = 0, sum(path.stat().st_size for path in files)
    started = time.perf_counter()
    with open(target, "wb", buffering=0) as write:
        for path in files:
            with open(path, "rb", buffering=0) as file:
                while block := file.read(_BLOCK_BYTES):
                    read += len(block)
                    while (due := size * read // total - write.tell()) > 0:
                        write.write(block[:due])
        os.fsync(write.fileno())
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds


def sha256_rate() -> float:
    """Bytes whose SHA-256 one core computes in a second: the best of five times 64 MB."""
    data, seconds = bytes(1 << 26), []
    for _ in range(5):
        started = time.perf_counter()
        hashlib.sha256(data)
        seconds.append(time.perf_counter() - started)
    return len(data) / min(seconds)


def _leave_cache(files: Sequence[Path]) -> None:
    """Have the page cache forget files, which are on the disk; no effect where the system cannot."""
    for path in files if hasattr(os, "posix_fadvise") else ():
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _step(name: str, folder: Path, model_file: Path, settings: list[str]) -> int:
    """Do one step, and print what it took."""
    from tools.hugging_face.from_hf import from_hugging_face
    from tools.hugging_face.to_hf import export_command

    started, processed = time.perf_counter(), time.process_time()
    with OwnMemory() as memory:
        if name == _RANDOM:
            _write_random(folder / "ours", load_model_settings(model_file, settings))
        elif name != _IDLE:
            source, target = (folder / part for part in STEPS[name])
            if name == "import":
                from_hugging_face(source, target)
            else:
                export_command(source, target, None, "bfloat16", "own", None)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - processed
        time.sleep(0.1)  # at least one look at the memory
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "memory": memory.peak_bytes}))
    return 0


def _write_random(out: Path, model: ModelConfig) -> None:
    """A checkpoint of random weights that bf16 holds, as if it had been imported."""
    tokenizer = out.with_name("tokenizer")
    tokenizer.mkdir()
    write_json(tokenizer / "tokenizer.json", {})
    weights = trained_shapes(model, None, None)

    def read(name: str) -> Parts:
        torch.manual_seed(zlib.crc32(name.encode()))
        rows, *others = weights[name]
        step = max(1, PART_ELEMENTS // math.prod(others))
        return (torch.randn(min(step, rows - start), *others).bfloat16().float() for start in range(0, rows, step))

    origin = {"from": "random", "special_tokens": {}, "generation_config": {}}
    write_starting_checkpoint(
        out, model, read, data_digest="random", origin=origin, tokenizer=tokenizer, title="random weights"
    )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _checksums(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / CHECKSUM_FILE).read_text(encoding="utf-8"))
    return found
