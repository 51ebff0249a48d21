"""Requests to stop, by a signal, a file or a lack of resources, on which all ranks agree between two steps."""

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
"""File in the run's folder that stops the run, which removes it. Empty: save and be requeued. The word `end`: save and
end."""

_SECOND_INTERRUPT_SECONDS = 2.0
"""Seconds within which further SIGINTs count as the same Ctrl-C: the deepspeed launcher passes it on up to three times,
within a tenth of a second."""


@dataclass(frozen=True)
class Stop:
    """Reason for stopping after this step, and exit code of the processes."""

    reason: str
    exit_code: ExitCode


class StopRequests:
    """Collects this rank's requests to stop, and agrees on them with the other ranks.

    SIGUSR1 and SIGTERM stop the run so that it is requeued: Slurm sends SIGUSR1 before the time limit or before it
    takes a node away, and launchers send SIGTERM to their processes. SIGINT, a person's Ctrl-C, ends the run, and so
    does SIGHUP, sent by a closed terminal, unless `nohup` ignores it. Signals may arrive on some ranks only.

    Args:
        output: the run's folder, with the stop file.
        group: process group for the agreement, which must support CPU tensors; None: the default group.
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
            # When the run ends with its own exit code, the first rank that exits makes srun and the launchers terminate
            # the others; a SIGTERM that took effect now would replace that exit code.
            leaving = number in (signal.SIGTERM, signal.SIGHUP) and (kind is not None or self._stop is not None)
            signal.signal(number, signal.SIG_IGN if leaving else handler)

    def request(self, reason: str, exit_code: ExitCode = ExitCode.REQUEUE) -> None:
        """Stop after this step. The first reason counts, except that a request to end overrides one to requeue."""
        if self._stop is None or (exit_code == ExitCode.ENDED and self._stop.exit_code != ExitCode.ENDED):
            self._stop = Stop(reason, exit_code)

    def is_wanted(self) -> bool:
        """Whether this rank wants to stop after the step; rank 0 looks for the file."""
        if self._rank == 0:
            self._look_for_file()
        return self._stop is not None

    def agreed(self) -> Stop | None:
        """The stop that all ranks agree on; None: go on. Collective."""
        mine = torch.tensor([int(self.is_wanted())])
        dist.all_reduce(mine, dist.ReduceOp.MAX, group=self._group)
        if not int(mine):
            return None
        requests = [stop for stop in gathered(self._stop, self._group) if stop is not None]
        if self._rank == 0:
            self._file.unlink(missing_ok=True)
        return next((stop for stop in requests if stop.exit_code == ExitCode.ENDED), requests[0])

    def _look_for_file(self) -> None:
        try:
            word = self._file.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return
        if word == "end":
            self.request(f"the file {self._file} requests an end", ExitCode.ENDED)
        else:
            self.request(f"the file {self._file} exists")

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
                # os.write, because a signal may interrupt a print, which cannot be re-entered.
                with contextlib.suppress(OSError):
                    os.write(2, b"\nCtrl-C: finishing this step, then saving; press it again to stop without saving\n")


def control_group() -> dist.ProcessGroup | None:
    """A group of all ranks for CPU tensors; None, for the default group, where its backend is gloo. Collective."""
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
"""Error texts of torch, gloo and NCCL when the process at the other end is gone."""


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error means that another process is gone, rather than a fault in this one."""
    text = str(error)
    if isinstance(error, ValueError):  # a checkpoint whose writing needed the lost process
        return "has lost another one" in text
    return isinstance(error, RuntimeError) and any(sign in text for sign in LOST_PEER_SIGNS)


def leave(exit_code: ExitCode) -> NoReturn:
    """End this process now, without tearing down process groups, which would wait for peers that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
