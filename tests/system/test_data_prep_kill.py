"""Killed anywhere and run again, data preparation writes the same bytes, with any number of workers."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from data_prep.stages import STAGES

COMMON_WORDS = "the of and a to in is that for it with as was on be by this are from or have model data text train"
REPOSITORY = Path(__file__).parents[2]


def make_corpus(folder: Path) -> None:
    """Three sources in several shards, with copies, near-copies, personal data and lines that C4 cuts."""
    source = random.Random(11)
    for name in ("web", "books", "notes"):
        texts: list[str] = []
        for number in range(60):
            lines = [
                " ".join([*source.choices(COMMON_WORDS.split(), k=9), f"word{source.randint(0, 3000)}"]).capitalize()
                + "."
                for _ in range(source.randint(7, 16))
            ]
            if number % 10 == 4:
                lines = texts[-1].split("\n")
            if number % 10 == 7:
                lines[-1] = f"Write to someone{number}@example.org for more of it."
            texts.append("\n".join(["Home | About", *lines]))
        texts[30] = texts[29]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = {
        "output": "run",
        "shard_bytes": 16_000,
        "sources": [
            {"name": "web", "kind": "jsonl", "paths": [str(folder / "web.jsonl")], "rules": ["c4_paper", "language"]},
            {"name": "books", "kind": "jsonl", "paths": [str(folder / "books.jsonl")], "rules": ["ccnet"]},
            {"name": "notes", "kind": "jsonl", "paths": [str(folder / "notes.jsonl")], "rules": []},
        ],
        "dedup": {"lines": "keep_first"},
        "tokenizer": {"vocabulary_size": 768},
        "tokens": {"heldout_share": 0.1},
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(config))


def start(
    corpus: Path, folder: Path, workers: int, *settings: str, largest_file: int | None = None
) -> subprocess.Popen[str]:
    """Do a whole run in `folder`, so that its output has the same relative path wherever the folder is."""
    folder.mkdir(exist_ok=True)

    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.Popen(
        [
            *(sys.executable, "-m", "data_prep", "run", "--config", str(corpus / "data.yaml")),
            *(f"workers={workers}", *settings),
        ],
        cwd=folder,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=limit,
    )


def finish(process: subprocess.Popen[str]) -> str:
    told, _ = process.communicate()
    assert process.returncode == 0, told
    return told


def bytes_of(folder: Path) -> dict[str, str]:
    """Digest of every output, except locks, input time stamps and resolved settings, which describe how it was run."""
    run = folder / "run"
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file()
        and not path.name.startswith(".lock")
        and path.name not in ("manifest-stamps.json", "config.resolved.yaml")
    }


def records(folder: Path) -> Counter[str]:
    """Commit records by stage."""
    return Counter(path.parent.name for path in (folder / "run" / "commits").glob("*/*.json"))


def kill_at_random(corpus: Path, folder: Path, moments: random.Random, kills: int, total: int) -> list[str]:
    """Start a run and kill it, again and again, at commit records in rising order and a moment after."""
    goals = sorted(moments.randrange(0, total) for _ in range(kills))
    struck = []
    for goal in goals:
        process = start(corpus, folder, workers=2)
        while sum(records(folder).values()) < goal and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.random() * 0.3 if goal else moments.random() * 6)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            stages = records(folder)
            struck.append(max(stages, key=lambda name: stages[name]) if stages else "start")
        process.communicate()
    return struck


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], int]:
    """The corpus, and the bytes and the number of records of a run with one worker."""
    corpus = tmp_path_factory.mktemp("corpus")
    make_corpus(corpus)
    folder = corpus / "undisturbed"
    told = finish(start(corpus, folder, workers=1))
    verdicts = json.loads((folder / "run" / "ledger.json").read_text())["documents"]
    assert verdicts["by_reason"]["duplicate.exact"] >= 3, told
    assert verdicts["by_reason"]["duplicate.near"] + verdicts["by_reason"]["duplicate.exact"] >= 15
    return corpus, bytes_of(folder), sum(records(folder).values())


def test_killed_runs_end_with_the_same_bytes(undisturbed: tuple[Path, dict[str, str], int], tmp_path: Path) -> None:
    corpus, expected, total = undisturbed
    struck = kill_at_random(corpus, tmp_path, random.Random(3), 4, total)
    assert len(struck) >= 3
    finish(start(corpus, tmp_path, workers=2))
    assert bytes_of(tmp_path) == expected


def test_a_full_disk_is_a_clear_error_and_what_is_done_stays(
    undisturbed: tuple[Path, dict[str, str], int], tmp_path: Path
) -> None:
    corpus, expected, _ = undisturbed
    process = start(corpus, tmp_path, workers=1, largest_file=12_000)  # signals are larger
    told, _ = process.communicate()
    assert process.returncode == 2, told
    assert re.search(
        r"^error: .*: File too large: .*run/signals/.*\.parquet, of which [\d,]+ bytes were written; let this process "
        r"write larger files \(`ulimit -f`\) and run the same command again: finished work is kept$",
        told,
        re.MULTILINE,
    ), told
    assert "Traceback" not in told
    done = records(tmp_path)
    assert done
    assert not list((tmp_path / "run").rglob("*.partial"))
    finish(start(corpus, tmp_path, workers=1))
    assert bytes_of(tmp_path) == expected


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up_in_any_stage_and_grows_again(
    undisturbed: tuple[Path, dict[str, str], int], small_disk: Path, workers: int
) -> None:
    corpus, expected, _ = undisturbed
    ended_in = set()
    for kilobytes in itertools.count(128, 64):
        size = ["mount", "-o", f"remount,size={kilobytes}k", str(small_disk)]
        subprocess.run(size, check=True)
        before = records(small_disk)
        process = start(corpus, small_disk, workers)
        told, _ = process.communicate()
        done = records(small_disk)
        is_deduplicated = (small_disk / "run/commits/dedup/all.json").is_file()  # one record in place of those of units
        counted = [stage for stage in before if stage != "dedup" or not is_deduplicated]
        assert all(done[stage] >= before[stage] for stage in counted)
        assert not list((small_disk / "run").rglob("*.partial"))
        if process.returncode == 0:
            break
        ended_in.add(max(done, key=list(STAGES).index) if done else "start")
        assert process.returncode == 2, told
        errors = [line for line in told.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "Traceback" not in told, told
        assert re.search(
            r"No space left on device: run/\S+, of which [\d,]+ bytes were written; [\d,]+ of [\d,]+ bytes are free "
            r"there: make room and run the same command again: finished work is kept$",
            errors[0],
        ), told
    assert len(ended_in) >= 3, ended_in
    assert bytes_of(small_disk) == expected


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 7])
def test_any_number_of_workers_writes_the_same_bytes(
    undisturbed: tuple[Path, dict[str, str], int], tmp_path: Path, workers: int
) -> None:
    corpus, expected, _ = undisturbed
    finish(start(corpus, tmp_path, workers))
    assert bytes_of(tmp_path) == expected


@pytest.mark.slow
def test_ray_writes_the_same_bytes(undisturbed: tuple[Path, dict[str, str], int], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="an extra, `pip install .[ray]`")
    corpus, expected, _ = undisturbed
    finish(start_on_ray(corpus, tmp_path))
    assert bytes_of(tmp_path) == expected


def start_on_ray(corpus: Path, folder: Path) -> subprocess.Popen[str]:
    pytest.importorskip("ray", reason="an extra, `pip install .[ray]`")
    return start(corpus, folder, 2, "executor=ray")


def working_on_ray(driver: subprocess.Popen[str], folder: Path) -> int | None:
    """Process of a Ray worker in the middle of a unit, after one more was committed; None: the run has ended."""
    lock = str(folder / "run" / ".lock-workers")
    before = sum(records(folder).values())
    while driver.poll() is None:
        if sum(records(folder).values()) > before:
            with contextlib.suppress(psutil.Error, FileNotFoundError):
                for process in psutil.Process(driver.pid).children(recursive=True):
                    if any(file.path == lock for file in process.open_files()):
                        return process.pid
    return None


@pytest.mark.slow
def test_killed_workers_of_ray_are_replaced_and_the_bytes_are_the_same(
    undisturbed: tuple[Path, dict[str, str], int], tmp_path: Path
) -> None:
    corpus, expected, _ = undisturbed
    driver = start_on_ray(corpus, tmp_path)
    struck = 0
    while struck < 4 and (victim := working_on_ray(driver, tmp_path)) is not None:
        os.kill(victim, signal.SIGKILL)
        struck += 1
    finish(driver)
    assert struck >= 2
    assert bytes_of(tmp_path) == expected


@pytest.mark.slow
def test_a_killed_run_on_ray_ends_with_the_same_bytes(
    undisturbed: tuple[Path, dict[str, str], int], tmp_path: Path
) -> None:
    corpus, expected, _ = undisturbed
    driver = start_on_ray(corpus, tmp_path)
    assert working_on_ray(driver, tmp_path) is not None
    driver.kill()
    driver.communicate()
    assert list((tmp_path / "run").glob(".work-*"))
    finish(start_on_ray(corpus, tmp_path))
    assert bytes_of(tmp_path) == expected


@pytest.mark.slow
def test_a_ray_that_is_gone_is_a_clear_error(undisturbed: tuple[Path, dict[str, str], int], tmp_path: Path) -> None:
    corpus, expected, _ = undisturbed
    driver = start_on_ray(corpus, tmp_path)
    assert working_on_ray(driver, tmp_path) is not None
    raylets = [child for child in psutil.Process(driver.pid).children() if child.name() == "raylet"]
    raylets[0].kill()
    told, _ = driver.communicate()
    assert driver.returncode == 2 and re.search(
        r"^error: \w+: Ray has failed .* finished work is kept$", told, re.MULTILINE
    ), told
    finish(start(corpus, tmp_path, 2))
    assert bytes_of(tmp_path) == expected


@pytest.mark.slow
def test_fifty_kills(undisturbed: tuple[Path, dict[str, str], int], tmp_path: Path) -> None:
    corpus, expected, total = undisturbed
    moments = random.Random(50)
    struck: Counter[str] = Counter()
    for round_ in range(100):
        folder = tmp_path / str(round_)
        struck.update(kill_at_random(corpus, folder, moments, 5, total))
        finish(start(corpus, folder, workers=2))
        assert bytes_of(folder) == expected
        if struck.total() >= 50:
            break
    assert struck.total() >= 50, struck
