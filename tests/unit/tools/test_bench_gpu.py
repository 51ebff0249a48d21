"""`altiplano bench gpu` runs to its end on a CPU with tiny shapes, and stops in time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tools.bench.gpu import jobs
from tools.bench.gpu_jobs import PEERS, SHAPES, VARIANTS, Shape


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.bench", "gpu", "--device", "cpu", "--shapes", "tiny", "--size", "128"]
    if "--seconds" not in arguments:
        command += ["--seconds", "100000"]
    wide = {**os.environ, "COLUMNS": "200"}  # rows in one line
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=wide)


def test_ceilings_steps_and_kernels() -> None:
    """A variant that needs a GPU is a row that says so."""
    variants = ["as shipped", "64 MiB of logits at a time", "flash attention"]
    done = bench("--peers", "--tests", "--variants", *variants, "--only", "ceilings", "ours")
    assert done.returncode == 0, done.stderr
    for part in (
        "product 128",
        "attention 4",
        "ours, as shipped",
        "ours, 64 MiB",
        "tokens/s",
        "kernels run",
        "kernel ",
    ):
        assert part in done.stdout, done.stdout
    assert "attention_backend: flash has no effect on a CPU" in " ".join(done.stdout.split())


def test_bits_are_the_same_twice() -> None:
    done = bench("--peers", "--tests", "--variants", "as shipped", "--only", "bits")
    digests = {line.split()[-1] for line in done.stdout.splitlines() if "bits, " in line and ":" not in line}
    assert len(digests) == 1 and len(digests.pop()) == 16, done.stdout


def test_what_no_longer_fits_is_skipped() -> None:
    done = bench("--seconds", "1")
    assert done.returncode == 0 and "ceilings" in done.stdout and "s were left" in done.stdout, done.stdout


def test_every_shape_and_variant_is_planned_and_the_last_ones_matter_least() -> None:
    shapes = [name for name in SHAPES if name != "tiny"]
    planned = list(jobs(shapes, list(VARIANTS), list(PEERS), ["tests/gpu"]))
    assert {(job.shape, job.name) for job in planned if job.kind == "ours"} == {
        (shape, name) for shape in shapes for name in VARIANTS
    }
    assert [job.shape for job in planned if job.kind == "ours"][: len(shapes)] == shapes
    assert sum(job.kind == "bits" for job in planned) == 4
    assert [SHAPES[name].parameters > 1.2e9 for name in shapes] == [True] * len(shapes)


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_peers_train(name: str) -> None:
    if name.startswith("torchtitan"):
        pytest.importorskip("torchtitan")
    done = bench("--tests", "--variants", "as shipped", "--peers", name, "--only", "peer")
    assert "tokens/s" in done.stdout and "does not train" not in done.stdout, done.stdout + done.stderr


def test_without_a_gpu_it_is_refused() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = subprocess.run([sys.executable, "-m", "tools.bench", "gpu"], capture_output=True, text=True)
    assert done.returncode == 2 and "there is no GPU" in done.stderr


def test_shapes_are_those_of_their_names() -> None:
    assert isinstance(SHAPES["1.35B"], Shape)
    assert SHAPES["1.35B"].parameters == pytest.approx(1.35e9, rel=0.01)
    assert SHAPES["1.5B, vocabulary 128k"].parameters == pytest.approx(1.5e9, rel=0.02)
