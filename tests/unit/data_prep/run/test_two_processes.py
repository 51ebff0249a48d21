"""Two processes on one unit, even by mistake: a commit record is true at every moment."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.config import DataConfig
from data_prep.extract import extract_shard
from data_prep.indexed_dataset.writer import IndexedDatasetWriter
from data_prep.run.commit_records import Stage
from data_prep.run.directory import RunDirectory, Share
from data_prep.run.executors import ShareDone, UnitError, run_units
from data_prep.run.manifest import freeze_manifest
from foundation.atomic_files import sha256_file, write_array

UNIT = "web-00000"
NAME_CHANGES = ("link", "replace", "rename", "unlink", "remove")
FAILS = "another process has written a file with other bytes"
Work = Callable[[str, Stage, int], None]


def write_corpus(name: str, stage: Stage, variant: int) -> None:
    extract_shard(name, stage, (1000, 10)[variant])


def write_tokens(name: str, stage: Stage, variant: int) -> None:
    prefix, flags = stage.run.tokens / "encoded" / name, stage.run.tokens / "encoded" / f"{name}.heldout.npy"
    with IndexedDatasetWriter(prefix, 100, with_digests=False, keep_first=stage.keeps_first) as writer:
        writer.add_document(np.array([variant, 1, 2]))
    write_array(flags, np.array([False]), stage.new_file())
    stage.commit(name, [], {"documents": 1}, scratch=[*writer.paths, flags])


def work_at(root: Path, work: Work, variant: int, has_links: bool, pause_at: int) -> int:
    """Do the unit as a process with a share does; before name change number `pause_at`, wait until `go` is there.

    Without `has_links`, the file system answers as one that has no hard links.

    Returns:
        How many names of the run's files were changed.
    """
    stage = Stage(RunDirectory(root, Share(0, 1)), "extract", 1, {}, inputs=str(root))
    changes = 0
    link = os.link

    def pausing(change: Callable[..., Any], path: Any, *others: Any, **options: Any) -> Any:
        nonlocal changes
        if Path(os.fsdecode(path)).is_relative_to(root):
            if changes == pause_at:
                (root.parent / "paused").touch()
                while not (root.parent / "go").exists():
                    time.sleep(0.002)
            changes += 1
            if change is link and not has_links:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return change(path, *others, **options)

    with pytest.MonkeyPatch.context() as patch:
        for name in NAME_CHANGES if has_links else set(NAME_CHANGES) - {"replace"}:  # that is done under a lock
            patch.setattr(os, name, partial(pausing, getattr(os, name)))
        try:
            run_units(partial(work, stage=stage, variant=variant), [UNIT], 1, "extract", stage)
        except ShareDone:
            return changes
    raise AssertionError("a share ends with ShareDone")


@pytest.fixture(scope="module")
def processes() -> Iterator[tuple[ProcessPoolExecutor, ProcessPoolExecutor]]:
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context) as one, ProcessPoolExecutor(1, context) as two:
        yield one, two


def freeze(folder: Path) -> Path:
    (folder / "raw.jsonl").write_text('{"text": "a short one"}\n{"text": "second"}\n', encoding="utf-8")
    source = {"name": "web", "kind": "jsonl", "paths": [str(folder / "raw.jsonl")]}
    config = DataConfig.model_validate({"output": folder / "run", "sources": [source]})
    freeze_manifest(config, RunDirectory(folder / "run"))
    return folder / "run"


def committed(root: Path) -> dict[str, tuple[int, int]]:
    """Files of the unit's record, by inode and time of change, once each was found to be what the record says."""
    record = json.loads((root / "commits" / "extract" / f"{UNIT}.json").read_text(encoding="utf-8"))
    found = {}
    for name, (size, checksum) in record["outputs"].items():
        status = (root / name).stat()
        assert status.st_size == size
        assert checksum is None or sha256_file(root / name) == checksum, name
        found[name] = (status.st_ino, status.st_mtime_ns)
    assert found
    return found


def meet(
    folder: Path,
    processes: tuple[ProcessPoolExecutor, ProcessPoolExecutor],
    work: Work,
    variant: int,
    has_links: bool,
    at: int,
) -> bool:
    """One process pauses before name change `at`, another does the whole unit, then the first continues.

    Returns:
        Whether the first process reached that point.
    """
    root = freeze(folder)
    first: Future[int] = processes[0].submit(work_at, root, work, 0, has_links, at)
    while not (folder / "paused").exists() and not first.done():
        time.sleep(0.002)
    if first.done():
        assert first.result() == at
        committed(root)
        return False
    failures = []
    try:
        processes[1].submit(work_at, root, work, variant, has_links, -1).result()
        before = committed(root)
    except UnitError as error:
        failures.append(str(error))
        before = {}
    (folder / "go").touch()
    try:
        first.result()
    except UnitError as error:
        failures.append(str(error))
    after = committed(root)
    assert before.items() <= after.items()  # what was committed is still the same file
    assert not [path for path in root.rglob("*") if path.suffix in (".partial", ".aside")]
    if variant == 0:
        assert failures == []
    else:
        assert len(failures) <= 1 and all(FAILS in failure for failure in failures)
    return True


@pytest.mark.parametrize("has_links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("work", [write_corpus, write_tokens])
@pytest.mark.parametrize("variant", [0, 1], ids=["same", "other"])
def test_a_record_is_true_wherever_another_process_comes_in(
    tmp_path: Path,
    processes: tuple[ProcessPoolExecutor, ProcessPoolExecutor],
    work: Work,
    variant: int,
    has_links: bool,
) -> None:
    at = 0
    while True:
        folder = tmp_path / str(at)
        folder.mkdir()
        if not meet(folder, processes, work, variant, has_links, at):
            break
        at += 1
    assert at >= 6  # each file is put in place, and its private name removed; the record as well
