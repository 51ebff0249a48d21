"""The folder of one run of data preparation: its places, its lock, and the part of a stage that a process does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.stages import STAGES
from foundation.atomic_files import room_for

WORK_PREFIX = ".work-"
"""Prefix of temporary folders in a run's folder; one that is there when a run starts was left by a killed one."""


@dataclass(frozen=True)
class Share:
    """One of `processes` that divide the work of a stage among them, on machines that share a folder."""

    rank: int
    processes: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """From `RANK/PROCESSES`.

        Raises:
            ValueError: it is none.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not int(match[1]) < int(match[2]):
            raise ValueError(f"--share {text}: must be RANK/PROCESSES with RANK from 0, such as 0/16 or 15/16")
        return cls(int(match[1]), int(match[2]))


class RunDirectory:
    """The folder of one run and the places in it.

    Args:
        share: for a process that does a part of a stage.
        executor: where the units of a stage are worked at, see `executors`.
    """

    def __init__(self, root: Path, share: Share | None = None, executor: Literal["local", "ray"] = "local") -> None:
        self.root = Path(root)
        self.share = share
        self.executor = executor
        self.corpus = self.root / "corpus"
        self.signals = self.root / "signals"
        self.dedup = self.root / "dedup"
        self.verdicts = self.root / "verdicts"
        self.tokenizer = self.root / "tokenizer"
        self.tokenizer_report = self.root / "tokenizer_report"
        self.tokens = self.root / "tokens"
        self.quarantine = self.root / "quarantine"
        self.commits = self.root / "commits"
        self.manifest = self.root / "manifest.json"
        self.manifest_stamps = self.commits / "manifest-stamps.json"

    def outputs_of(self, stage: str) -> tuple[Path, ...]:
        """Everything that a stage writes, except its commit records."""
        return tuple(self.root / output for output in STAGES[stage].outputs)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; processes that have shares of it hold it together.

        Raises:
            ValueError: another process holds it.
        """
        with room_for(self.root / ".lock"):
            self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".lock", "a+") as file:
            try:
                fcntl.flock(file, (fcntl.LOCK_EX if self.share is None else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise ValueError(
                    f"{self.root}: {file.read().strip() or 'another process'} is working in this run; "
                    "wait for it, or choose another `output`"
                ) from None
            except OSError as error:
                raise ValueError(
                    f"{file.name}: the file system of `output` cannot lock files ({error.strerror}), and two runs "
                    "could write over each other; choose another, or let its administrator allow locks"
                ) from None
            if self.share is not None:
                yield
                return
            with room_for(self.root / ".lock"):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
            with open(self._worker_lock(), "w") as workers:
                fcntl.flock(workers, fcntl.LOCK_EX)  # a killed run's workers end within moments
            for left in self.root.glob(f"{WORK_PREFIX}*"):
                shutil.rmtree(left, ignore_errors=True)
            yield

    @contextlib.contextmanager
    def used_by_worker(self) -> Iterator[None]:
        """While a worker writes: a run that starts after a killed one waits for the workers that it left behind."""
        with open(self._worker_lock(), "w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def _worker_lock(self) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        return self.root / ".lock-workers"
