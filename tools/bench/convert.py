"""Checkpoints to Hugging Face's format and back: seconds, bytes moved beside a plain copy, memory, and equality.

A model with random weights in bf16 is written as a checkpoint, exported, imported and exported again; both exports must
have the same bytes. `--model configs/model/llama-7b.yaml` takes 55 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
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

STEPS = ("random weights", "export", "import", "second export")
_COPIED_BYTES = 2_000_000_000
"""Bytes of the plain copy, at most."""
_IDLE = "idle"
"""What a process without work needs, which is subtracted from the others."""


def main(arguments: list[str]) -> int:
    """Run every step in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(prog="altiplano bench convert", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("configs/model/llama3.2-1b.yaml"), help="its settings")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the model")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        return _step(given.one, given.folder, given.model, given.set)
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        folder = Path(temporary)
        found: dict[str, dict[str, float]] = {}
        with Progress("bench convert", len(STEPS) + 2, "steps") as progress:
            for name in (_IDLE, *STEPS):
                command = [sys.executable, "-m", "tools.bench", "convert", "--one", name, "--folder", str(folder)]
                done = subprocess.run(
                    [*command, "--model", str(given.model), "--set", *given.set],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                found[name] = json.loads(done.stdout.splitlines()[-1])
                if name == "export":
                    shutil.rmtree(folder / "ours")
                progress.advance()
            copied = _copy(folder)
            progress.advance()
        same = _checksums(folder / "there") == _checksums(folder / "again")
    rows = [
        (
            name,
            f"{found[name]['bytes'] / 1e9:.1f}",
            f"{found[name]['seconds']:.1f}",
            f"{found[name]['bytes'] / found[name]['seconds'] / 1e6:,.0f}",
            f"{found[name]['bytes'] / found[name]['seconds'] / copied:.2f}",
            f"{(found[name]['memory'] - found[_IDLE]['memory']) / 1e6:,.0f}",
        )
        for name in STEPS[1:]
    ]
    model = load_model_settings(given.model, given.set)
    title = f"{given.model.stem}, random weights in bf16; both exports have {'the same' if same else 'DIFFERENT'} bytes"
    heads = (
        "step",
        "GB read and written",
        "seconds",
        "MB/s",
        "of a plain copy's MB/s",
        "MB of memory beside libraries",
    )
    show(f"{title}; vocabulary {model.vocabulary_size:,}", rows, heads)
    return 0 if same else 1


def _step(name: str, folder: Path, model_file: Path, settings: list[str]) -> int:
    """Do one step, and print what it took."""
    from tools.hugging_face.from_hf import from_hugging_face
    from tools.hugging_face.to_hf import export_command

    ours, there, again = folder / "ours", folder / "there", folder / "again"
    started = time.perf_counter()
    with OwnMemory() as memory:
        if name == "random weights":
            _write_random(ours, load_model_settings(model_file, settings))
        elif name == "import":
            from_hugging_face(there, ours)
        elif name != _IDLE:
            export_command(ours, there if name == "export" else again, None, "bfloat16", "own", None)
        time.sleep(0.1)  # at least one look at the memory
    seconds = time.perf_counter() - started
    moved = sum(map(_size, (ours, again if name == "second export" else there)))
    print(json.dumps({"seconds": seconds, "memory": memory.peak_bytes, "bytes": moved}))
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


def _copy(folder: Path) -> float:
    """Bytes that a plain copy reads and writes in a second."""
    source = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    left = min(source.stat().st_size, _COPIED_BYTES)
    moved, started = 2 * left, time.perf_counter()
    with open(source, "rb") as read, open(folder / "copy", "wb") as write:
        while left:
            left -= write.write(read.read(min(left, 1 << 24)))
        os.fsync(write.fileno())
    return moved / (time.perf_counter() - started)
