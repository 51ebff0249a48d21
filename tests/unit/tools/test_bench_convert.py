"""`altiplano bench convert` at small size: what it reports, and that it notices exports that differ."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.bench import convert
from tools.bench.convert import Step, plain_copy

SMALL = ["model.layers=2", "model.hidden_size=64", "model.feed_forward_size=128", "model.vocabulary_size=512"]


def test_it_reports_the_ratio_of_every_round_cores_and_the_rate_of_the_hash(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.bench", "convert", "--folder", str(tmp_path), "--rounds", "2"]
    done = subprocess.run(
        [*command, "--model", "configs/model/pythia-70m.yaml", "--set", *SMALL],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "250"},
    )
    assert done.returncode == 0, done.stderr
    assert "both exports have the same bytes; medians of 2 rounds" in done.stdout
    assert f"cores: {len(os.sched_getaffinity(0))}, SHA-256 of one: " in done.stdout
    for step in convert.STEPS:
        (line,) = (line for line in done.stdout.splitlines() if line.strip().startswith(f"{step}  "))
        ratio, *rounds = line[len(step) + 2 :].split()[4:7]
        assert min(map(float, rounds)) <= float(ratio) + 0.01 <= max(map(float, rounds)) + 0.02
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, 1, 999, 40_000_000, 90_000_000])
def test_the_plain_copy_writes_as_many_bytes_as_the_step(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_bytes(bytes(20_000_000))
    seen: list[int] = []
    monkeypatch.setattr(Path, "unlink", lambda path: seen.append(path.stat().st_size))
    assert plain_copy(files, size, tmp_path / "copy") > 0
    assert seen == [size]


def test_speed_and_what_the_hash_needs() -> None:
    step = Step(read=4_000, written=2_000, seconds=10.0, copy_seconds=8.0, cpu_seconds=0.0, memory=0)
    assert step.speed == 0.8
    assert step.sha256_seconds(1_000, cores=8) == 4.0  # the larger one, while another core hashes the smaller one
    assert step.sha256_seconds(1_000, cores=1) == 6.0


def test_exports_that_differ_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        convert, "measure", lambda *_: ({name: [Step(1, 1, 1, 1, 1, 1)] for name in convert.STEPS}, False)
    )
    assert convert.main(["--model", "configs/model/pythia-70m.yaml", "--folder", str(tmp_path)]) == 1
    assert "DIFFERENT" in capsys.readouterr().out
