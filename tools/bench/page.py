"""Tables of the benchmark page: printed after each measurement and written into the page with its circumstances."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from foundation.atomic_files import write_text
from foundation.progress import cell, summary_table

Shown = tuple[str, list[list[object]], list[str]]
"""Title, rows and headings of a table."""

_shown: list[Shown] = []


def show(title: str, rows: Iterable[Sequence[object]], columns: Sequence[str]) -> None:
    """Print a table and remember it for the page."""
    table = (title, [list(row) for row in rows], list(columns))
    _shown.append(table)
    summary_table(*table)


def circumstances(command: str, packages: Sequence[str]) -> str:
    """Describe a measurement: command, date, processor, load before it, commit, and versions of packages."""
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    return (
        f"`{command}`, {datetime.now(timezone.utc):%Y-%m-%d}, {os.cpu_count()} × {_processor()}{load}; "
        f"commit {_commit()}; Python {platform.python_version()}, {', '.join(versions)}."
    )


def _processor() -> str:
    found = ""
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        match = re.search(r"^model name\s*:\s*(.+)$", facts.read_text(encoding="utf-8"), re.MULTILINE)
        found = match[1].strip() if match else ""
    return found or platform.processor() or platform.machine()


def _commit() -> str:
    """Commit of the running code, with a note when files differ from it."""

    def git(*arguments: str) -> str | None:
        folder = Path(__file__).parent
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
        except FileNotFoundError:
            return None
        return None if done.returncode else done.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    if commit is None:
        return "unknown (no git checkout)"
    changed = git("status", "--porcelain", "--", ":/*.py")
    return f"{commit} with changes" if changed else commit


def markdown(tables: Sequence[Shown]) -> str:
    """Render tables one after the other, each under its title."""
    parts = []
    for title, rows, columns in tables:
        lines = [f"{title}:", "", _row(columns), _row(["---"] * len(columns))]
        parts.append("\n".join([*lines, *(_row([cell(value) for value in row]) for row in rows)]))
    return "\n\n".join(parts)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in cells)} |"


class PageError(ValueError):
    """The page has no place for an area's tables."""


def check_page(page: Path, area: str) -> None:
    """Check that the page has a place for the area before hours are spent on measuring.

    Raises:
        PageError: the page is missing or has no such place.
    """
    _cut(page, area)


def write_page(page: Path, area: str, heading: str) -> None:
    """Replace the area's tables on the page with those shown in this process, under a heading."""
    before, after = _cut(page, area)
    write_text(page, f"{before}\n{heading}\n\n{markdown(_shown)}\n\n{after}")


def _cut(page: Path, area: str) -> tuple[str, str]:
    """Return the text before and after an area's tables, including the marks."""
    begin, end = f"<!-- tables of {area} -->\n", f"<!-- end of {area} -->\n"
    try:
        text = page.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PageError(f"{page}: no such file") from None
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise PageError(f"{page}: there must be one line {begin.strip()!r} and, below it, one line {end.strip()!r}")
    return text[: text.index(begin) + len(begin)], text[text.index(end) :]
