"""Asked to stop: by a signal, a file or a low resource; agreed on by all ranks at a step boundary."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from pretrain.launch.agreement import gathered
from pretrain.launch.exit_codes import ExitCode

STOP_FILE = "stop"
"""In the run's folder; removed when it is heeded. Empty: save and be queued again. The word `end`: save and end."""

_SECOND_INTERRUPT_SECONDS = 2.0
"""The deepspeed launcher passes one Ctrl-C on up to three times, within a tenth of a second."""


@dataclass(frozen=True)
class Stop:
    """Why a run stops after this step, and with which code its processes end."""

    reason: str
    exit_code: ExitCode


class StopRequests:
    """Collects this rank's reasons to stop, and agrees on them with the others.

    SIGUSR1 and SIGTERM ask for another turn in the queue: Slurm sends one before the time limit or before it takes a
    node away, launchers send the other to their processes. SIGINT, a person's Ctrl-C, ends the run, and so does
    SIGHUP, a closed terminal's, unless `nohup` has it ignored. They may arrive on some ranks only.

    Args:
        output: the run's folder, where the stop file is looked for.
        group: for the agreement; it must work on CPU tensors. None: the default group.
    """

    def __init__(self, output: Path, rank: int, group: dist.ProcessGroup | None = None) -> None:
        self._file = output / STOP_FILE
        self._rank = rank
        self._group = group
        self._stop: Stop | None = None
        self._interrupted_at: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            # On the way out with a code of its own: the first rank that is gone makes srun and the launchers end the
            # others, and a SIGTERM that is obeyed now would turn "stop and look" into "killed".
            leaving = number in (signal.SIGTERM, signal.SIGHUP) and (kind is not None or self._stop is not None)
            signal.signal(number, signal.SIG_IGN if leaving else handler)

    def request(self, reason: str, exit_code: ExitCode = ExitCode.REQUEUE) -> None:
        """Stop after this step; the first reason counts, except that a person's end outweighs another turn."""
        if self._stop is None or (exit_code == ExitCode.ENDED and self._stop.exit_code != ExitCode.ENDED):
            self._stop = Stop(reason, exit_code)

    def agreed(self) -> Stop | None:
        """The same answer on every rank: stop now, or go on. Collective."""
        if self._rank == 0:
            self._look_for_file()
        mine = torch.tensor([0 if self._stop is None else 1])
        dist.all_reduce(mine, dist.ReduceOp.MAX, group=self._group)
        if not int(mine):
            return None
        asked = [stop for stop in gathered(self._stop, self._group) if stop is not None]
        if self._rank == 0:
            self._file.unlink(missing_ok=True)
        return next((stop for stop in asked if stop.exit_code == ExitCode.ENDED), asked[0])

    def _look_for_file(self) -> None:
        try:
            word = self._file.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return
        if word == "end":
            self.request(f"the file {self._file} says so", ExitCode.ENDED)
        else:
            self.request(f"the file {self._file} is there")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGHUP:
            self.request("the terminal was closed", ExitCode.ENDED)
            return
        if number != signal.SIGINT:
            self.request(f"{name} on {socket.gethostname()}")
            return
        now = time.monotonic()
        if self._interrupted_at is not None and now - self._interrupted_at > _SECOND_INTERRUPT_SECONDS:
            raise KeyboardInterrupt
        if self._interrupted_at is None:
            self._interrupted_at = now
            self.request("Ctrl-C", ExitCode.ENDED)
            if self._rank == 0:
                # os.write: a signal may interrupt a print, which then refuses to be entered again.
                with contextlib.suppress(OSError):
                    os.write(2, b"\nCtrl-C: finishing this step, then saving; once more stops without saving\n")


def control_group() -> dist.ProcessGroup | None:
    """A group of all ranks for small things on the CPU; None stands for the default one where that does. Collective."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


LOST_PEER_SIGNS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Socket closed",
    "recvValue failed",
    "sendBytes failed",
    "Timed out waiting",
    "NCCL communicator was aborted",
    "ncclRemoteError",
    "remote process exited or there was a network error",
    "Watchdog caught collective operation timeout",
)
"""What torch, gloo and NCCL say when the process at the other end is gone."""


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error means that another process is gone, rather than a fault of this one."""
    text = str(error)
    if isinstance(error, ValueError):  # a checkpoint that could not be written together
        return "has lost another one" in text
    return isinstance(error, RuntimeError) and any(sign in text for sign in LOST_PEER_SIGNS)


def leave(exit_code: ExitCode) -> NoReturn:
    """End this process now, without the tear-down of process groups, which waits for peers that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
