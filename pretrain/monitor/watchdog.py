"""Detects a run that hangs, writes the stacks of every rank, names the culprits and ends the job.

A hang costs days because nothing fails: one rank is stuck, and all others wait for it inside a collective. On each rank
a thread measures how long the main thread has been in one activity. When that is too long on any rank, all ranks write
the Python stacks of their threads. Ranks that are not waiting for others, or that do not respond, are the culprits.

With gloo a rank waits inside the collective. NCCL's collectives return at once, and the GPU waits; the host goes on
until it needs a result, or until the queue of the GPU is full, which can be anywhere. So on a GPU a rank also counts as
waiting when its stream has unfinished work: a rank that has stopped to feed its GPU has an idle one.
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
from pretrain.device import has_busy_gpu
from pretrain.launch.exit_codes import ExitCode

Activity = Literal["starting", "training", "evaluating", "saving"]

HANGS_FOLDER = "hangs"
REPORT_FILE = "report.txt"
WAITING_PLACES = (
    "torch/distributed/",
    "deepspeed/comm/",
    "deepspeed/runtime/pipe/p2p.py",
    "megatron/core/tensor_parallel/layers.py backward",  # waits for the all-reduce that overlaps with a product
)
"""Files, or files with a function: a stack that ends in one of them is waiting for other ranks."""
SYNCHRONISING_PLACES = (
    "pretrain/engine/engine.py train_step",
    "pretrain/engine/engine.py evaluate",
    "pretrain/engine/engine.py score",
    "pretrain/model/scores.py row_scores",
    "pretrain/checkpoint/save.py _share_of",
    "deepspeed/runtime/utils.py is_invalid_grad_norm",
    "deepspeed/runtime/utils.py clip_tensors_by_global_norm",
    "deepspeed/runtime/pipe/engine.py _exec_load_micro_batch",
    "torch/cuda/",
)
"""Functions that need a result of the GPU: a stack whose innermost frame is one of them is waiting for the GPU, and
the GPU for other ranks. Used for a GPU that has not answered."""
WORKERS = {
    "pretrain/data/prefetch.py": "prefetch",
    "pretrain/checkpoint/save.py": "checkpoint",
}
"""Threads by the file of the functions that they work for: while the main thread waits there, the thread's stack
counts."""
_POLL_SECONDS = 5.0
_INNERMOST = 4
"""Number of innermost frames that are searched for a waiting place; only wrappers are between it and the end."""
_SHOWN_FRAMES = 12
_GPU_ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class Frame:
    """A frame of a stack."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})"


@dataclass(frozen=True)
class RankState:
    """State of a rank when the hang was detected.

    Attributes:
        seconds: time that it had been in its activity.
        frames: frames of the main thread, outermost first, followed by those of the thread that it waits for, if any.
        has_busy_gpu: whether the rank's GPU had unfinished work; None: it has not answered.
    """

    rank: int
    host: str
    process: int
    activity: str
    step: int
    seconds: float
    frames: tuple[Frame, ...]
    has_busy_gpu: bool | None = False

    @property
    def waits(self) -> bool:
        """Whether the rank is waiting for other ranks."""
        innermost = [f"{frame.file} {frame.function}" for frame in self.frames[-_INNERMOST:]]
        if self.has_busy_gpu or any(place in text for text in innermost for place in WAITING_PLACES):
            return True
        synchronises = any(place in text for text in innermost[-1:] for place in SYNCHRONISING_PLACES)
        return synchronises and self.has_busy_gpu is None


class Watchdog:
    """Watches this rank's main thread, see the top of this file.

    Args:
        output: the run's folder, shared by all nodes, for the stacks.
        hosts: node of each rank.
        limits: seconds without a sign of life that are allowed in each activity.
        attempt: name of this start of the run, the same on every rank.
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
        """Give a sign of life: the main thread begins another activity or step."""
        limit = self._limits[activity]
        self._now = (activity, step, time.monotonic(), limit)
        # From outside of Python, for a main thread that is stuck in C code and lets no other Python thread run.
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
            while len(read_states(self._folder)) < len(self._hosts) and time.monotonic() < deadline:
                time.sleep(min(_POLL_SECONDS, limit / 10))
            states = read_states(self._folder)
            if min(states) == self._rank:
                text = hang_report(states, self._hosts)
                write_text(self._folder / REPORT_FILE, text)
                print(f"pretrain: {text}All stacks are in {self._folder}", file=sys.stderr, flush=True)
            else:  # a launcher ends all processes when the first one exits
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
            "has_busy_gpu": has_busy_gpu(_GPU_ANSWER_SECONDS),
        }
        write_text(self._folder / f"rank-{self._rank:05d}.json", json.dumps(facts, indent=1))


def _grace_seconds(limit: float) -> float:
    """Seconds to wait for the stacks of the other ranks."""
    return min(30.0, max(2.0, limit / 4))


def _short(file: str) -> str:
    for marker in ("/site-packages/", f"/lib/python{sys.version_info[0]}.{sys.version_info[1]}/"):
        if marker in file:
            return file.split(marker)[-1]
    return os.path.relpath(file) if not os.path.relpath(file).startswith("..") else file


def read_states(folder: Path) -> dict[int, RankState]:
    """States that the ranks have written, by rank."""
    found = {}
    for path in folder.glob("rank-*.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        stacks = facts.pop("stacks")
        frames = [Frame(**frame) for frame in stacks.get("main", [])]
        if frames and frames[-1].file.endswith(("threading.py", "queue.py")):
            callers = [name for frame in frames for file, name in WORKERS.items() if frame.file.endswith(file)]
            frames += [Frame(**frame) for frame in stacks.get(callers[-1], [])] if callers else []
        found[facts["rank"]] = RankState(**facts, frames=tuple(frames))
    return found


def culprits(states: Mapping[int, RankState], world_size: int) -> dict[int, str]:
    """Ranks that the others wait for, each with the reason; none when all ranks are in the same state.

    These are the ranks that have not responded; otherwise those that are not waiting while others are; otherwise, when
    all are waiting, those at an earlier step than the others.
    """
    silent = [rank for rank in range(world_size) if rank not in states]
    if silent:
        reason = "has not written its stacks: it is gone, stopped, disconnected, or stuck outside of Python"
        return dict.fromkeys(silent, reason)
    busy = [rank for rank, state in states.items() if not state.waits]
    if busy and len(busy) < world_size:
        return dict.fromkeys(sorted(busy), "is not waiting for other ranks, while others are waiting")
    behind = min(state.step for state in states.values())
    late = [rank for rank, state in states.items() if state.step == behind]
    if len(late) < world_size:
        return dict.fromkeys(sorted(late), f"is still at step {behind}, others are ahead")
    return {}


def hang_report(states: Mapping[int, RankState], hosts: Sequence[str]) -> str:
    """Report of a hang: the culprits, then all ranks grouped by their stacks."""
    first = max(states.values(), key=lambda state: state.seconds)
    lines = [
        f"hang found {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}: {first.activity}, step {first.step}: "
        f"no sign of life for {first.seconds:.0f} s (monitor.hang.{first.activity}_seconds)"
    ]
    guilty = culprits(states, len(hosts))
    for rank, reason in guilty.items():
        lines.append(f"culprit: rank {rank} on {hosts[rank]} {reason}")
    if not guilty:
        lines.append("no culprit: all ranks are in the same state, which points to the network or the file system")
    groups: dict[tuple[bool, tuple[tuple[str, str], ...]], list[RankState]] = defaultdict(list)
    for _, state in sorted(states.items()):
        groups[state.waits, tuple((frame.file, frame.function) for frame in state.frames)].append(state)
    for members in sorted(groups.values(), key=len):
        ranks = ", ".join(str(member.rank) for member in members)
        what = "waiting for others" if members[0].waits else "not waiting for others"
        what += ", with a busy GPU" if members[0].has_busy_gpu else ""
        lines.append(f"\nrank{'s' * (len(members) > 1)} {ranks}: {members[0].activity}, step {members[0].step}, {what}")
        frames = members[0].frames
        if len(frames) > _SHOWN_FRAMES:
            lines.append(f"  … {len(frames) - _SHOWN_FRAMES} outer frames")
        lines += [f"  {frame}" for frame in frames[-_SHOWN_FRAMES:]]
    return "\n".join(lines) + "\n"
