"""Host memory and disk, looked at before they run out."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from pretrain.launch.exit_codes import ExitCode

LOOK_SECONDS = 10.0
"""At most so often; a look takes well under a millisecond."""
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Of this node, or of the part of it that a job may have, in bytes."""

    available: int
    total: int

    @property
    def free_share(self) -> float:
        return self.available / self.total


def host_memory(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> Memory:
    """What is left: the machine's, or the job's own limit where that is tighter. Slurm and containers set one by
    cgroup, and end the process that exceeds it while the machine still has plenty."""
    whole = psutil.virtual_memory()
    memory = Memory(int(whole.available), int(whole.total))
    for limit in _limits(cgroups, own):
        if limit.total < memory.total and limit.available < memory.available:
            memory = limit
    return memory


def _limits(cgroups: Path, own: Path) -> list[Memory]:
    """The limits of the groups that this process is in, from the innermost outwards, of either version of cgroups."""
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
    except (OSError, ValueError):  # no such group, or the limit is "max"
        return None
    if total <= 0:
        return None
    # Pages of files that nobody uses count as used, and are given back when memory is asked for.
    return Memory(max(0, total - used + int(numbers.get(idle, 0))), total)


class ResourceWatch:
    """Looks now and then, and says what is about to run out.

    Args:
        node: name of this one.
        memory_share: of the memory, below which the run had better save and start afresh.
    """

    def __init__(self, node: str, memory_share: float) -> None:
        self._node = node
        self._memory_share = memory_share
        self._next_look = 0.0
        self._was_enough = False
        self._disk_said = False

    def out_of_memory_soon(self) -> tuple[str, ExitCode] | None:
        """Why to stop and with which code, or None. Looks at most every `LOOK_SECONDS`.

        Memory that ran out over time comes back with a fresh start. Where it is short at the first look, a fresh start
        would be there again after one step, so that somebody has to look.
        """
        now = time.monotonic()
        if now < self._next_look:
            return None
        self._next_look = now + LOOK_SECONDS
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
            f"{reason}, and so from the start: see what else is in memory there, use more nodes, or lower it",
            ExitCode.REFUSED,
        )

    def disk_warning(self, checkpoint: Path) -> str | None:
        """After a save: a warning when fewer than three more checkpoints of this size fit on the disk; once."""
        if not checkpoint.is_dir():  # removed already, for newer ones
            return None
        size = sum(file.stat().st_size for file in checkpoint.iterdir() if file.is_file())
        free = shutil.disk_usage(checkpoint).free
        if free >= 3 * size or self._disk_said:
            self._disk_said = self._disk_said and free < 3 * size
            return None
        self._disk_said = True
        return (
            f"disk: {free / 2**30:.1f} GiB are left at {checkpoint.parent}, and a checkpoint takes "
            f"{size / 2**30:.1f}: free some, or lower checkpoint.keep_last"
        )
