"""Progress for people: a live line on a terminal, or a plain line now and then in a log; and tables."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

from rich import box, progress
from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_LINE_SECONDS = 10.0
_COLUMNS_OF_A_FILE = 240


class Progress:
    """Progress of a long step: units done, rate, and estimated time left.

    Args:
        title: what is being done.
        total: number of units; None: unknown.
        unit: name of the unit, in the plural ("documents").
        done: units that an earlier process has done; they count for the share, not for the rate.
    """

    def __init__(
        self, title: str, total: int | None, unit: str, *, done: int = 0, console: Console | None = None
    ) -> None:
        self.title = title
        self.total = total
        self.unit = unit
        self.done = done
        self._done_before = done
        self._console = console or Console()
        self._running = False
        self._live: progress.Progress | None = None
        self._task: progress.TaskID | None = None
        self._start = self._last_line = time.monotonic()

    def __enter__(self) -> Progress:
        self._running = True
        self._start = self._last_line = time.monotonic()
        if self._console.is_terminal:
            self._live = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(bar_width=None),
                progress.TextColumn("{task.fields[state]}"),
                console=self._console,
                transient=True,
                expand=True,
            )
            self._task = self._live.add_task(self.title, total=self.total, completed=self.done, state=self.state())
            self._live.start()
        return self

    def advance(self, count: int = 1) -> None:
        """Count `count` more units as done."""
        self.done += count
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=self.done, state=self.state())
        elif time.monotonic() - self._last_line >= PLAIN_LINE_SECONDS:
            self._last_line = time.monotonic()
            self._print(f"{self.title}: {self.state()}")

    def state(self) -> str:
        """Return the state as text: `120 of 400 documents, 12.0/s, 23 s left`."""
        of = f" of {self.total:,}" if self.total is not None else ""
        rate = self._rate()
        text = f"{self.done:,}{of} {self.unit}" + (f", {format_rate(rate)}" if rate > 0 else "")
        if self._running and rate > 0 and self.total is not None and self.total > self.done:
            text += f", {format_seconds((self.total - self.done) / rate)} left"
        return text

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        self._running = False
        seconds = time.monotonic() - self._start
        outcome = "stopped after" if kind else "done in"
        self._print(f"{self.title}: {self.state()}, {outcome} {format_seconds(seconds)}")

    def _rate(self) -> float:
        seconds = time.monotonic() - self._start
        return (self.done - self._done_before) / seconds if seconds > 0 else 0.0

    def _print(self, line: str) -> None:
        # Text, not markup: a title may contain brackets. soft_wrap: a log line is not broken.
        self._console.print(Text(line), soft_wrap=True)


def format_rate(per_second: float) -> str:
    """Format a rate as `12.5/s`, or by the minute if it is below 1/s."""
    if per_second >= 100:
        return f"{per_second:,.0f}/s"
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{per_second * 60:.1f}/min"


def format_seconds(seconds: float) -> str:
    """Format a duration as `42 s`, `3 min 05 s` or `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def summary_table(
    title: str, rows: Iterable[Sequence[object]], columns: Sequence[str] = (), *, console: Console | None = None
) -> None:
    """Print a table; integers get thousands separators, numbers are aligned right."""
    cells = [list(row) for row in rows]
    width = max([len(columns), *(len(row) for row in cells)], default=0)
    table = Table(title=Text(title), title_justify="left", show_header=bool(columns), box=box.SIMPLE)
    for i in range(width):
        column = [row[i] for row in cells if i < len(row) and row[i] != ""]
        numeric = bool(column) and all(isinstance(value, int | float) for value in column)
        heading = columns[i] if i < len(columns) else ""
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell(value)) for value in row))
    (console or _console()).print(table)


def _console() -> Console:
    """Where tables are printed: a file or a pipe gets whole lines, where a terminal folds what it has no room for."""
    is_wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=_COLUMNS_OF_A_FILE) if is_wide else Console()


def cell(value: object) -> str:
    """Format a value for a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
