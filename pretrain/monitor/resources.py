"""Host memory and disk, checked before they run out."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from pretrain.launch.exit_codes import ExitCode

CHECK_SECONDS = 10.0
"""Shortest time between two checks, each of which takes well under a millisecond."""
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Memory of this node, or the part of it that a job may use, in bytes."""

    available: int
    total: int

    @property
    def free_share(self) -> float:
        return self.available / self.total


def host_memory(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> Memory:
    """Available memory: the machine's, or that of the job's own limit where it is lower. Slurm and containers set
    limits by cgroup, and kill a process that exceeds them even if the machine has memory left."""
    whole = psutil.virtual_memory()
    memory = Memory(int(whole.available), int(whole.total))
    for limit in _limits(cgroups, own):
        if limit.total < memory.total and limit.available < memory.available:
            memory = limit
    return memory


def _limits(cgroups: Path, own: Path) -> list[Memory]:
    """Limits of this process's cgroups, of either version, from the innermost outwards."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit_file, usage_file, idle = cgroups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit_file, usage_file = cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            idle = "total_inactive_file"
        else:
            continue
        folder = root / path.lstrip("/")
        while True:
            memory = _limit(folder / limit_file, folder / usage_file, folder / "memory.stat", idle)
            if memory is not None:
                found.append(memory)
            if folder == root or root not in folder.parents:
                break
            folder = folder.parent
    return found


def _limit(limit: Path, usage: Path, statistics: Path, idle: str) -> Memory | None:
    try:
        total, used = int(limit.read_text()), int(usage.read_text())
        numbers = dict(line.split() for line in statistics.read_text().splitlines())
    except (OSError, ValueError):  # the group does not exist, or its limit is "max"
        return None
    if total <= 0:
        return None
    # Inactive pages of files count as used, but are released when memory is needed.
    return Memory(max(0, total - used + int(numbers.get(idle, 0))), total)


class ResourceWatch:
    """Checks memory and disk from time to time.

    Args:
        node: name of this node.
        memory_share: share of free memory below which the run should save and be restarted.
    """

    def __init__(self, node: str, memory_share: float) -> None:
        self._node = node
        self._memory_share = memory_share
        self._next_check = 0.0
        self._was_enough = False
        self._has_warned = False

    def out_of_memory_soon(self) -> tuple[str, ExitCode] | None:
        """Reason and exit code when memory runs short, else None. Checks at most every `CHECK_SECONDS`.

        After a restart, memory that was lost over time is available again. If it is short at the first check, a restart
        would not help, and a person is needed.
        """
        now = time.monotonic()
        if now < self._next_check:
            return None
        self._next_check = now + CHECK_SECONDS
        memory = host_memory()
        if memory.free_share >= self._memory_share:
            self._was_enough = True
            return None
        reason = (
            f"memory on {self._node}: {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB are left, less "
            f"than monitor.memory_stop_share {self._memory_share:g}"
        )
        if self._was_enough:
            return reason, ExitCode.REQUEUE
        return (
            f"{reason}, already at the start: find what else uses memory there, use more nodes, or lower the setting",
            ExitCode.REFUSED,
        )

    def disk_warning(self, checkpoint: Path) -> str | None:
        """A warning, given once, when fewer than three more checkpoints of this size fit on the disk."""
        if not checkpoint.is_dir():  # removed already, in favour of newer ones
            return None
        size = sum(file.stat().st_size for file in checkpoint.iterdir() if file.is_file())
        free = shutil.disk_usage(checkpoint).free
        if free >= 3 * size or self._has_warned:
            self._has_warned = self._has_warned and free < 3 * size
            return None
        self._has_warned = True
        return (
            f"disk: {free / 2**30:.1f} GiB are left at {checkpoint.parent}, and a checkpoint needs "
            f"{size / 2**30:.1f} GiB: free some space, or lower checkpoint.keep_last"
        )
