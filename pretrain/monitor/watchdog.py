"""Finds a run that hangs, writes down where every rank stands, names the culprit and ends the job.

A hang costs days because nothing fails: one rank stands still, and all others wait for it inside a collective. A thread
of each rank looks at how long its main thread has been at one thing. When that is too long on any rank, all write down
the Python stacks of their threads; those that do not wait for others, or do not answer at all, are the culprits.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from foundation.atomic_files import write_text
from pretrain.launch.exit_codes import ExitCode

Activity = Literal["starting", "training", "evaluating", "saving"]

HANGS_FOLDER = "hangs"
REPORT_FILE = "report.txt"
WAITING_PLACES = (
    "torch/distributed/",
    "deepspeed/comm/",
    "deepspeed/runtime/pipe/p2p.py",
    "megatron/core/tensor_parallel/layers.py backward",  # waits for the all-reduce that it overlaps with a product
)
"""Files, or a file and a function of it: a stack that ends in one of these waits for other ranks."""
WORKERS = {
    "pretrain/data/prefetch.py": "prefetch",
    "pretrain/checkpoint/save.py": "checkpoint",
}
"""Name of the thread that works for functions of a file: while the main thread waits there, this one is what counts."""
_POLL_SECONDS = 5.0
_INNERMOST = 4
"""Frames in which a waiting place is looked for: between it and the end of the stack stand wrappers only."""
_SHOWN_FRAMES = 12


@dataclass(frozen=True)
class Frame:
    """A function that was being called."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})"


@dataclass(frozen=True)
class Standing:
    """Where one rank stood when the hang was found.

    Attributes:
        seconds: that it had been at it.
        frames: of the main thread, outermost first; and of the thread that works for it, if it waits for that.
    """

    rank: int
    host: str
    process: int
    activity: str
    step: int
    seconds: float
    frames: tuple[Frame, ...]

    @property
    def waits(self) -> bool:
        """Whether it waits for other ranks."""
        innermost = [f"{frame.file} {frame.function}" for frame in self.frames[-_INNERMOST:]]
        return any(place in text for text in innermost for place in WAITING_PLACES)


class Watchdog:
    """Watches this rank's main thread; see the module.

    Args:
        output: the run's folder, shared by all nodes; the stacks go into a folder of it.
        hosts: name of each rank's node, by rank.
        limits: seconds that each activity may take without a sign of life.
        attempt: tells the starts of a run apart, the same on every rank.
    """

    def __init__(
        self, output: Path, rank: int, hosts: Sequence[str], limits: Mapping[str, float], attempt: str
    ) -> None:
        self._folder = output / HANGS_FOLDER / attempt
        self._rank = rank
        self._hosts = hosts
        self._limits = limits
        self._main = threading.main_thread().ident
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.begin("starting", 0)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def begin(self, activity: Activity, step: int) -> None:
        """A sign of life: the main thread begins something new."""
        limit = self._limits[activity]
        self._now = (activity, step, time.monotonic(), limit)
        # For a main thread that is stuck in C and lets no other Python thread run: from outside of Python, later.
        faulthandler.dump_traceback_later(limit + 2 * _grace_seconds(limit), exit=True, file=2)

    def _watch(self) -> None:
        poll = min(_POLL_SECONDS, *(limit / 10 for limit in self._limits.values()))
        while not self._ended.wait(poll):
            _, _, since, limit = self._now
            if time.monotonic() - since > limit or self._folder.is_dir():
                self._end_the_job()

    def _end_the_job(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        try:
            limit = self._now[3]
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write_stacks()
            deadline = time.monotonic() + _grace_seconds(limit)
            while len(read_standings(self._folder)) < len(self._hosts) and time.monotonic() < deadline:
                time.sleep(min(_POLL_SECONDS, limit / 10))
            standings = read_standings(self._folder)
            if min(standings) == self._rank:
                text = hang_report(standings, self._hosts)
                write_text(self._folder / REPORT_FILE, text)
                print(f"pretrain: {text}All stacks are in {self._folder}", file=sys.stderr, flush=True)
            else:  # a launcher ends everything when the first process ends
                deadline = time.monotonic() + _grace_seconds(limit)
                while not (self._folder / REPORT_FILE).is_file() and time.monotonic() < deadline:
                    time.sleep(min(_POLL_SECONDS, limit / 10))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(ExitCode.REQUEUE)

    def _write_stacks(self) -> None:
        activity, step, since, _ = self._now
        stacks = {}
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for identity, frame in sys._current_frames().items():
            name = "main" if identity == self._main else names.get(identity, f"thread {identity}")
            stacks[name] = [
                asdict(Frame(_short(entry.filename), entry.lineno or 0, entry.name))
                for entry in traceback.extract_stack(frame)
            ]
        facts = {
            "rank": self._rank,
            "host": self._hosts[self._rank],
            "process": os.getpid(),
            "activity": activity,
            "step": step,
            "seconds": round(time.monotonic() - since, 1),
            "stacks": stacks,
        }
        write_text(self._folder / f"rank-{self._rank:05d}.json", json.dumps(facts, indent=1))


def _grace_seconds(limit: float) -> float:
    """How long is waited for the stacks of the others."""
    return min(30.0, max(2.0, limit / 4))


def _short(file: str) -> str:
    for marker in ("/site-packages/", f"/lib/python{sys.version_info[0]}.{sys.version_info[1]}/"):
        if marker in file:
            return file.split(marker)[-1]
    return os.path.relpath(file) if not os.path.relpath(file).startswith("..") else file


def read_standings(folder: Path) -> dict[int, Standing]:
    """What the ranks have written, by rank."""
    found = {}
    for path in folder.glob("rank-*.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        stacks = facts.pop("stacks")
        frames = [Frame(**frame) for frame in stacks.get("main", [])]
        if frames and frames[-1].file.endswith(("threading.py", "queue.py")):
            callers = [name for frame in frames for file, name in WORKERS.items() if frame.file.endswith(file)]
            frames += [Frame(**frame) for frame in stacks.get(callers[-1], [])] if callers else []
        found[facts["rank"]] = Standing(**facts, frames=tuple(frames))
    return found


def culprits(standings: Mapping[int, Standing], world_size: int) -> dict[int, str]:
    """The ranks that the others wait for, each with the reason; none when all stand alike.

    Those that have not answered; else those that do not wait for anybody while others do; else, when all wait, those
    that have come less far than the others.
    """
    silent = [rank for rank in range(world_size) if rank not in standings]
    if silent:
        reason = "has not written where it stands: it is gone, stopped, cut off, or stuck outside of Python"
        return dict.fromkeys(silent, reason)
    busy = [rank for rank, standing in standings.items() if not standing.waits]
    if busy and len(busy) < world_size:
        return dict.fromkeys(sorted(busy), "waits for no other rank while others wait")
    behind = min(standing.step for standing in standings.values())
    late = [rank for rank, standing in standings.items() if standing.step == behind]
    if len(late) < world_size:
        return dict.fromkeys(sorted(late), f"is still at step {behind}, others are further")
    return {}


def hang_report(standings: Mapping[int, Standing], hosts: Sequence[str]) -> str:
    """The whole story as text: culprits first, then all ranks grouped by where they stand."""
    first = max(standings.values(), key=lambda standing: standing.seconds)
    lines = [
        f"hang found {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}: {first.activity}, step {first.step}: "
        f"no sign of life for {first.seconds:.0f} s (monitor.hang.{first.activity}_seconds)"
    ]
    guilty = culprits(standings, len(hosts))
    for rank, reason in guilty.items():
        lines.append(f"culprit: rank {rank} on {hosts[rank]} {reason}")
    if not guilty:
        lines.append("no culprit: all ranks stand alike, which points at the network or the file system")
    groups: dict[tuple[tuple[str, str], ...], list[Standing]] = defaultdict(list)
    for _, standing in sorted(standings.items()):
        groups[tuple((frame.file, frame.function) for frame in standing.frames)].append(standing)
    for members in sorted(groups.values(), key=len):
        ranks = ", ".join(str(member.rank) for member in members)
        what = "waiting for others" if members[0].waits else "waiting for nobody"
        lines.append(f"\nrank{'s' * (len(members) > 1)} {ranks}: {members[0].activity}, step {members[0].step}, {what}")
        frames = members[0].frames
        if len(frames) > _SHOWN_FRAMES:
            lines.append(f"  … {len(frames) - _SHOWN_FRAMES} outer frames")
        lines += [f"  {frame}" for frame in frames[-_SHOWN_FRAMES:]]
    return "\n".join(lines) + "\n"
