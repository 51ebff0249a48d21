"""The folder of a run of data preparation: its paths, its lock, and shares of stages."""

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
"""Prefix of temporary folders in a run's folder; those present when a run starts are left over from a killed one."""


@dataclass(frozen=True)
class Share:
    """Share of a process in a stage whose units are divided among `processes`, on machines with a common folder."""

    rank: int
    processes: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """Parse `RANK/PROCESSES`.

        Raises:
            ValueError: it has another form.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not int(match[1]) < int(match[2]):
            raise ValueError(f"--share {text}: must be RANK/PROCESSES with RANK from 0, such as 0/16 or 15/16")
        return cls(int(match[1]), int(match[2]))


class RunDirectory:
    """The folder of a run and the paths in it.

    Args:
        share: share of this process in a stage; None: all of it.
        executor: where units run, see `executors`.
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
        self.arrivals = self.commits / "arrivals.json"
        self.verdicts_before = self.commits / "verdicts-before"
        self.changed_verdicts = self.root / "changed_verdicts.jsonl"

    def outputs_of(self, stage: str) -> tuple[Path, ...]:
        """Return the outputs of a stage, without its commit records."""
        return tuple(self.root / output for output in STAGES[stage].outputs)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run for this process; processes with shares of a stage lock it together.

        Raises:
            ValueError: another process has locked it.
        """
        with room_for(self.root / ".lock"):
            self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".lock", "a+") as file:
            try:
                fcntl.flock(file, (fcntl.LOCK_EX if self.share is None else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise ValueError(
                    f"{self.root}: {file.read().strip() or 'another process'} is using this run; "
                    "wait for it, or choose another `output`"
                ) from None
            except OSError as error:
                raise ValueError(
                    f"{file.name}: the file system of `output` cannot lock files ({error.strerror}), so two runs "
                    "could overwrite each other; choose another one, or have locks enabled on it"
                ) from None
            if self.share is not None:
                yield
                return
            with room_for(self.root / ".lock"):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
            with open(self._worker_lock(), "w") as workers:
                fcntl.flock(workers, fcntl.LOCK_EX)  # workers of a killed run end within moments
            for left in self.root.glob(f"{WORK_PREFIX}*"):
                shutil.rmtree(left, ignore_errors=True)
            yield

    @contextlib.contextmanager
    def used_by_worker(self) -> Iterator[None]:
        """Context for writing workers: a run that starts after a killed one waits for its remaining workers."""
        with open(self._worker_lock(), "w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def _worker_lock(self) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        return self.root / ".lock-workers"
