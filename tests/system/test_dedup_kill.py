"""Deduplication killed anywhere, by workers and by shares: the same bytes, and no finished unit is done again."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.system.test_data_prep_kill import REPOSITORY, bytes_of, finish

KILLS = 6


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command of data preparation on the run in `folder`, in a process group of its own."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "data_prep", *arguments, "--config", str(folder / "data.yaml")],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is measured, of many short texts: at the least memory, dedup takes more than a hundred units."""
    folder = tmp_path_factory.mktemp("measured")
    source = random.Random(5)
    words = ["".join(source.choices("bdfgklmnprst", k=source.randint(1, 6))) for _ in range(500)]
    texts: list[str] = []
    for number in range(9000):
        if number % 5 == 3:
            texts.append(source.choice(texts[-500:]))
        elif number % 5 == 4:
            texts.append(f"{source.choice(texts[-500:])} {source.choice(words)}")
        else:
            texts.append(f"Menu | {number % 7}\n{' '.join(source.choices(words, k=source.randint(20, 40)))}")
    records = (
        {"text": text, "url": f"https://site{number % 40}.example/{number}"} for number, text in enumerate(texts)
    )
    (folder / "web.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = {
        "output": "run",
        "shard_bytes": 150_000,
        "workers": 2,
        "sources": [{"name": "web", "kind": "jsonl", "paths": [str(folder / "web.jsonl")], "rules": ["urls"]}],
        "urls": {"pages_per_domain": 130},
        "dedup": {
            "memory_bytes": 1_000_000,
            "minimum_containment": 0.9,
            "lines": "keep_first",
            "sentences": "keep_first",
            "sentence_span": 1,
            "similar_sentences": 0.7,
            "substrings": "keep_first",
            "substring_tokens": 20,
        },
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(config))
    finish(start(folder, "run", "--until", "measure"))
    return folder


@pytest.fixture(scope="module")
def expected(measured: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The bytes of a run with one worker that nobody kills."""
    folder = copy_of(measured, tmp_path_factory.mktemp("undisturbed"))
    finish(start(folder, "dedup", "workers=1"))
    return bytes_of(folder)


def copy_of(measured: Path, folder: Path) -> Path:
    shutil.copytree(measured, folder, dirs_exist_ok=True)
    return folder


def committed(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each commit record of dedup."""
    found = {}
    for path in (folder / "run" / "commits" / "dedup").glob("*.json"):
        status = path.stat()
        found[path.stem] = (status.st_ino, status.st_mtime_ns)
    return found


def kill_at(folder: Path, goal: int, processes: list[subprocess.Popen[str]]) -> bool:
    """Kill all of some processes when so many units are committed; False: they have ended before."""
    while len(committed(folder)) < goal and any(process.poll() is None for process in processes):
        time.sleep(0.002)
    lived = any(process.poll() is None for process in processes)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return lived


def test_killed_workers_lose_what_they_had_not_committed(
    measured: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    folder, moments = copy_of(measured, tmp_path), random.Random(7)
    struck, before = 0, committed(tmp_path)
    for _ in range(KILLS):
        struck += kill_at(folder, len(before) + moments.randint(1, 30), [start(folder, "dedup")])
        after = committed(folder)
        assert before.items() <= after.items()
        before = after
    assert struck >= KILLS - 1 and len(before) > 50
    finish(start(folder, "dedup"))
    assert bytes_of(folder) == expected


@pytest.mark.slow
def test_killed_shares_lose_what_they_had_not_committed(
    measured: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    """All shares are killed soon after they have committed a unit, three times; then they are let end."""
    folder, moments = copy_of(measured, tmp_path), random.Random(8)
    struck, is_done, before = 0, False, committed(tmp_path)
    while not is_done:
        shares = [start(folder, "dedup", "--share", f"{rank}/3", "workers=1") for rank in range(3)]
        if struck < 3:
            assert kill_at(folder, len(before) + moments.randint(1, 3), shares), "the first steps have more units"
            struck += 1
        else:
            is_done = all("all steps are done" in finish(process) for process in shares)
        after = committed(folder)
        assert before.items() <= after.items()
        before = after
    finish(start(folder, "dedup"))
    assert bytes_of(folder) == expected
