"""Seconds to compile all kernels from an empty cache: by kernel, by group, and in total as on first use.

The first two tables compile each group in a process of its own; a kernel's time excludes the functions it calls. The
total compiles all groups in two processes at once, imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from typing import Any

from numba.core import event

from data_prep.compile_kernels import GROUPS, divide
from data_prep.kernels.quick_compilation import quick_compilation
from foundation.progress import Progress
from tools.bench.page import show


class _Seconds(event.Listener):
    """Sums the compile time of each function, excluding the functions compiled on its behalf."""

    def __init__(self) -> None:
        self.by_function: dict[str, float] = defaultdict(float)
        self._open: list[list[float]] = []

    def on_start(self, event: Any) -> None:
        self._open.append([time.perf_counter(), 0.0])

    def on_end(self, event: Any) -> None:
        started, inside = self._open.pop()
        seconds = time.perf_counter() - started
        if self._open:
            self._open[-1][1] += seconds
        function = event.data["dispatcher"].py_func
        self.by_function[f"{function.__module__}.{function.__name__}"] += seconds - inside


def main(arguments: list[str]) -> int:
    """Compile in separate processes and print the tables."""
    parser = argparse.ArgumentParser(prog="altiplano bench compile", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="number of timed totals; the fastest counts")
    parser.add_argument("--kernels", type=int, default=25, help="rows of the table of kernels")
    parser.add_argument("--one", nargs="+", metavar="GROUP", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        listener = _Seconds()
        event.register("numba:compile", listener)
        with quick_compilation():
            for name in given.one:
                GROUPS[name].compile()
        print(json.dumps(listener.by_function))
        return 0
    kernels: dict[str, float] = defaultdict(float)
    groups: list[tuple[str, float]] = []
    totals: list[float] = []
    with Progress("bench compile", len(GROUPS) + given.rounds, "compilations") as progress:
        for name in GROUPS:
            by_function = json.loads(_run([[name]])[0].splitlines()[-1])
            groups.append((name, sum(by_function.values())))
            for function, seconds in by_function.items():
                kernels[function] += seconds
            progress.advance()
        for _ in range(given.rounds):
            started = time.perf_counter()
            _run(list(divide(list(GROUPS))))
            totals.append(time.perf_counter() - started)
            progress.advance()
    longest = sorted(kernels.items(), key=lambda row: -row[1])[: given.kernels]
    for what, found in (("kernel", longest), ("group", groups)):
        show("From an empty cache", [(name, f"{seconds:.2f}") for name, seconds in found], (what, "seconds"))
    rows = [("all kernels in two processes, imports included", *(f"{one:.1f}" for one in (min(totals), max(totals))))]
    show(f"{given.rounds} rounds", rows, ("", "fastest, s", "slowest, s"))
    return 0


def _run(parts: list[list[str]]) -> list[str]:
    """Compile each part in its own process, all at once, with an empty cache; return their standard output."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        command = [sys.executable, "-m", "tools.bench", "compile", "--one"]
        running = [
            subprocess.Popen([*command, *part], env=environment, stdout=subprocess.PIPE, text=True) for part in parts
        ]
        printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("a process that compiles has failed; see above")
    return printed
