"""One run per output folder, and no lock that outlives its owner."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pretrain.launch import run_lock
from pretrain.launch.run_lock import LOCK_FILE, LockedError, RunLock

HOLD = """
import sys, time
from pathlib import Path
from pretrain.launch.run_lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_and_a_dead_one_is_not_waited_for(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        message = (
            rf"output: {tmp_path} is in use by process {process.pid} on .*, since .*: give this run another output"
        )
        with pytest.raises(LockedError, match=message), RunLock(tmp_path):
            pass
        assert (tmp_path / LOCK_FILE).is_file(), "the owner keeps it"
    finally:
        process.kill()
    # Before anybody has waited for it, too: it is a zombie then.
    while Path(f"/proc/{process.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    with RunLock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()
    process.wait()
    assert list(tmp_path.iterdir()) == []


def test_a_process_number_that_is_used_again_is_not_the_owner(tmp_path: Path) -> None:
    owner = dataclasses.replace(run_lock._this_process(), created=1.0)
    (tmp_path / LOCK_FILE).write_text(json.dumps(dataclasses.asdict(owner)))
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "a"}'])
def test_a_lock_that_was_never_finished_is_nobodys(content: str, tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text(content)
    with RunLock(tmp_path, touch_seconds=0.01, watch_seconds=0.1):
        pass


def test_an_owner_elsewhere_is_alive_while_it_touches_its_lock(tmp_path: Path) -> None:
    owner = dataclasses.replace(run_lock._this_process(), host="node7", system="another kernel")
    path = tmp_path / LOCK_FILE
    path.write_text(json.dumps(dataclasses.asdict(owner)))
    os.utime(path, (time.time() + 9e5, time.time() + 9e5))  # its clock is wrong
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(0.02):
            os.utime(path)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(LockedError, match="on node7"), RunLock(tmp_path, touch_seconds=0.02, watch_seconds=60):
            pass
    finally:
        ended.set()
        thread.join()
    with RunLock(tmp_path, touch_seconds=0.02, watch_seconds=0.3):
        before = path.stat().st_mtime_ns
        while path.stat().st_mtime_ns == before:  # it touches its own
            time.sleep(0.02)


def test_of_many_that_find_a_dead_owner_one_takes_over(tmp_path: Path) -> None:
    for _ in range(100):
        owner = dataclasses.replace(run_lock._this_process(), created=1.0)
        (tmp_path / LOCK_FILE).write_text(json.dumps(dataclasses.asdict(owner)))
        locks = [RunLock(tmp_path) for _ in range(8)]
        barrier, outcomes = threading.Barrier(len(locks)), []

        def take(lock: RunLock, barrier: threading.Barrier = barrier, outcomes: list[str] = outcomes) -> None:
            barrier.wait()
            try:
                lock.__enter__()
                outcomes.append("taken")
            except LockedError:
                outcomes.append("refused")

        threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["refused"] * 7 + ["taken"]
        for lock in locks:
            if lock._thread.is_alive():
                lock.__exit__()
        assert list(tmp_path.iterdir()) == []
