"""One run per output folder: a lock that names its owner, and that expires when the owner is dead.

Two runs in one folder would resume each other's checkpoints, replace each other's files and mix their metrics, and both
would end without an error. The lock is a file in the folder, created by a hard link, which is atomic on shared file
systems too. The file names the host and the process of its owner, who touches it regularly.

An owner on the same operating system is alive if a process with its number and start time exists. For an owner on
another host, in another container, or from before a reboot, the file is watched: the owner counts as dead if the file
is not touched for a while. This does not depend on the clocks of the hosts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import psutil

from foundation.atomic_files import put_if_absent

LOCK_FILE = "run.lock"
TOUCH_SECONDS = 5.0
"""Seconds between an owner's touches of its lock."""
WATCH_SECONDS = 30.0
"""Seconds for which a lock is watched before its owner counts as dead; file systems may show a touch late."""


@dataclass(frozen=True)
class Owner:
    """Owner of a lock.

    Attributes:
        system: the running kernel and its namespace of process numbers, in which `process` is valid.
        created: start of the process, in seconds since 1970 by its host's clock.
        since: when it acquired the lock, for people.
        nonce: random, to distinguish one acquisition of the lock from another.
    """

    host: str
    process: int
    system: str
    created: float
    since: str
    nonce: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


class LockedError(ValueError):
    """Another run is using the output folder."""


class RunLock:
    """Context with the lock of a run's output folder.

    Raises:
        LockedError: on entering, when a living process owns the lock; says which one, and what to do.
    """

    def __init__(self, output: Path, *, touch_seconds: float = TOUCH_SECONDS, watch_seconds: float = WATCH_SECONDS):
        self._path = output / LOCK_FILE
        self._touch_seconds = touch_seconds
        self._watch_seconds = watch_seconds
        self._owner = _this_process()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._touch, name="run lock", daemon=True)

    def __enter__(self) -> RunLock:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while not self._create(self._path):
            holder = self._last_owner()
            if holder is None:  # removed in the meantime
                continue
            if self._is_alive(holder):
                raise LockedError(
                    f"output: {self._path.parent} is in use by {holder}: give this run another output folder, or stop "
                    f"that one first. If you are certain that it is gone, remove {self._path}"
                )
            if self._succeed(holder):
                break
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if _read(self._path) == self._owner:
            self._path.unlink(missing_ok=True)

    def _create(self, path: Path) -> bool:
        """Create a file that names this process as the owner, unless the file exists."""
        private = self._path.with_name(f"{LOCK_FILE}.{self._owner.nonce}")
        private.write_text(json.dumps(asdict(self._owner)) + "\n")
        try:
            return put_if_absent(private, path)
        finally:
            private.unlink(missing_ok=True)

    def _last_owner(self) -> Owner | None:
        """The current owner: the one in the file, or the last of its successors."""
        owner = _read(self._path)
        while owner is not None and (successor := _read(self._successor_file(owner))) is not None:
            owner = successor
        return owner

    def _succeed(self, holder: Owner) -> bool:
        """Take over a dead owner's lock. One of several contenders succeeds in creating the successor file. It then
        writes itself into the lock file, and removes the successor file last, so that a process that does not find the
        successor file finds the new owner in the lock file."""
        succession = self._successor_file(holder)
        if not self._create(succession):
            return False
        is_ours = self._last_owner() == self._owner
        if is_ours:
            replacement = self._path.with_name(f"{LOCK_FILE}.{self._owner.nonce}")
            replacement.write_text(json.dumps(asdict(self._owner)) + "\n")
            os.replace(replacement, self._path)
        succession.unlink(missing_ok=True)
        return is_ours

    def _successor_file(self, owner: Owner) -> Path:
        return self._path.with_name(f"{LOCK_FILE}.after.{owner.nonce}")

    def _is_alive(self, holder: Owner) -> bool:
        if holder.system == self._owner.system:
            try:
                process = psutil.Process(holder.process)
                # With a tolerance: a start time computed from ticks since boot differs in the last digits.
                return abs(process.create_time() - holder.created) < 2 and process.status() != psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:
                return False
        touched, deadline = _touched(self._path), time.monotonic() + self._watch_seconds
        while time.monotonic() < deadline:
            time.sleep(self._touch_seconds / 5)
            if _touched(self._path) != touched:
                return True
        return False

    def _touch(self) -> None:
        while not self._ended.wait(self._touch_seconds):
            with contextlib.suppress(OSError):  # a file system that is unavailable for a moment
                os.utime(self._path)


def _this_process() -> Owner:
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    system = socket.gethostname()
    with contextlib.suppress(OSError):
        system += f" {boot.read_text().strip()} {os.readlink(namespace)}"
    return Owner(
        socket.gethostname(),
        os.getpid(),
        system,
        psutil.Process().create_time(),
        datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        uuid.uuid4().hex,
    )


def _read(path: Path) -> Owner | None:
    """Owner named in a file; None without a file, and an owner that cannot be alive when the file was never
    completed."""
    try:
        content = path.read_text()
    except FileNotFoundError:
        return None
    try:
        return Owner(**json.loads(content))
    except (ValueError, TypeError):
        nonce = hashlib.sha256(content.encode()).hexdigest()
        return Owner("an unknown host", 0, "unknown", 0.0, "an unknown time", nonce)


def _touched(path: Path) -> int | None:
    try:
        with open(path) as file:  # opening queries the server, while a plain stat may be answered from a cache
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None
