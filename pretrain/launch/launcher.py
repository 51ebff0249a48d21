"""The program that started this process: when it dies without a word, this one saves and stops."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping

VARIABLE = "ALTIPLANO_LAUNCHER"
"""Environment variable with the process that started this one and waits for it."""
_PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl(2): the signal that a process gets when its parent dies."""


def launched_from_here(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is to stop when this one dies."""
    return {**environment, VARIABLE: str(os.getpid())}


def stop_with_launcher() -> None:
    """Get SIGTERM when the launcher dies, also by SIGKILL, which it cannot pass on. Without a launcher that asks for
    it, and where there is no prctl, nothing changes.

    A run that nobody waits for would go on and hold its output folder.
    """
    launcher = os.environ.pop(VARIABLE, None)  # it is none of the processes that this one starts
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if launcher is None or prctl is None:
        return
    prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != int(launcher):  # it died before
        os.kill(os.getpid(), signal.SIGTERM)
