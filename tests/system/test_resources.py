"""Memory and disk of the machine itself run low under a run of two processes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pretrain.checkpoint.read import CheckpointReader
from pretrain.monitor.metrics import read_metrics
from pretrain.monitor.resources import host_memory
from tests.small_run import write_small_run
from tests.system.test_launchers import BIN, deepspeed, launch, wait_for_step

pytestmark = pytest.mark.slow

ENDLESS = ("parallel.pipeline=2", "schedule.total_steps=20000", "evaluation.every_steps=20000", "spikes.enabled=false")
BALLOON = "import sys; held = bytearray({bytes}); held[::4096] = b'x' * len(held[::4096]); print(flush=True); input()"


def test_memory_that_runs_low_saves_and_asks_for_a_fresh_start(tmp_path: Path) -> None:
    config, log = write_small_run(tmp_path), tmp_path / "log"
    memory = host_memory()
    balloon = memory.available // 4
    share = (memory.available - balloon / 2) / memory.total
    settings = (*ENDLESS, "checkpoint.every_steps=20000", f"monitor.memory_stop_share={share:.4f}")
    process = launch(*deepspeed(config, *settings), log=log)
    wait_for_step(tmp_path, 3, process, log)
    command = [str(BIN / "python"), "-c", BALLOON.format(bytes=balloon)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"\n"
        assert process.wait() == 75, log.read_text()
        holder.kill()
    text = log.read_text()
    assert "stopping: memory on " in text and f"less than monitor.memory_stop_share {share:.4g}" in text, text
    (stopped,) = [line for line in read_metrics(tmp_path / "train" / "metrics.jsonl") if line.get("event") == "stopped"]
    assert CheckpointReader(tmp_path / "train" / "checkpoints").step == stopped["step"] >= 3


def test_memory_that_is_short_from_the_start_is_for_a_person_to_look_at(tmp_path: Path) -> None:
    config, log = write_small_run(tmp_path), tmp_path / "log"
    settings = (*ENDLESS, "monitor.memory_stop_share=0.9999")
    assert launch(*deepspeed(config, *settings), log=log).wait() == 2, log.read_text()
    assert "already at the start: find what else uses memory there" in log.read_text()
    assert CheckpointReader(tmp_path / "train" / "checkpoints").step == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_is_said_before_and_what_is_saved_stays(small_disk: Path, tmp_path: Path) -> None:
    config, log = write_small_run(tmp_path), tmp_path / "log"
    settings = (*ENDLESS, f"output={small_disk}", "checkpoint={every_steps: 2, keep_last: null}")
    assert launch(*deepspeed(config, *settings), log=log).wait() == 2, log.read_text()
    text = log.read_text()
    assert 0 < text.find("note: disk: ") < text.find(": not written: rank "), text
    assert "No space left on device" in text and "older checkpoints are untouched" in text
    newest = CheckpointReader(small_disk / "checkpoints")
    newest.verify()
    assert {line["event"] for line in read_metrics(small_disk / "metrics.jsonl") if "event" in line} >= {"disk"}

    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    command = deepspeed(config, *settings, f"stop_after_step={newest.step + 1}")
    assert launch(*command, log=log).wait() == 0, log.read_text()
    assert f"continuing from the checkpoint of step {newest.step}," in log.read_text()


def test_a_checkpoint_that_finds_no_room_stops_the_run_then_and_not_at_the_next_one(
    small_disk: Path, tmp_path: Path
) -> None:
    config, log = write_small_run(tmp_path), tmp_path / "log"
    (small_disk / "others").write_bytes(bytes(3_700_000))
    settings = (*ENDLESS, f"output={small_disk}", "checkpoint.every_steps=100")
    assert launch(*deepspeed(config, *settings), log=log).wait() == 2, log.read_text()
    text = log.read_text()
    assert "step-00000100: not written: rank " in text and "older checkpoints are untouched" in text, text
    assert 100 <= max(line["step"] for line in read_metrics(small_disk / "metrics.jsonl")) < 200, text
