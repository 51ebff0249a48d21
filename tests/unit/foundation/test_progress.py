"""Progress is readable on a terminal and in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from foundation import progress
from foundation.progress import Progress, format_rate, format_seconds, summary_table


def log_console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=60, force_terminal=False), out


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_log_gets_a_line_every_ten_seconds_and_a_last_one(clock: Clock) -> None:
    console, out = log_console()
    with Progress("measure [all]", 400, "documents", done=100, console=console) as bar:
        for _ in range(4):
            clock.now += 4
            bar.advance(50)
    assert out.getvalue().splitlines() == [
        "measure [all]: 250 of 400 documents, 12.5/s, 12 s left",
        "measure [all]: 300 of 400 documents, 12.5/s, done in 16 s",
    ]


def test_a_failed_step_says_how_far_it_came(clock: Clock) -> None:
    console, out = log_console()
    with pytest.raises(RuntimeError), Progress("tokenize", None, "tokens", console=console) as bar:
        clock.now += 2
        bar.advance(10_000)
        raise RuntimeError
    assert out.getvalue() == "tokenize: 10,000 tokens, 5,000/s, stopped after 2.0 s\n"


def test_a_terminal_gets_one_live_line() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True)
    with Progress("extract", 10, "shards", console=console) as bar:
        bar.advance(10)
    assert "10 of 10 shards" in out.getvalue()
    assert "done in" in out.getvalue().splitlines()[-1]


def test_formats() -> None:
    assert [format_seconds(x) for x in (0.25, 42, 185, 7620)] == ["0.2 s", "42 s", "3 min 05 s", "2 h 07 min"]
    assert [format_rate(x) for x in (12345.0, 12.34, 0.5)] == ["12,345/s", "12.3/s", "30.0/min"]


def test_a_table_aligns_numbers_and_prints_brackets() -> None:
    console, out = log_console()
    summary_table(
        "Documents [all]", [("kept", 12345, 0.5), ("dropped", 67, True)], ("what", "count", "x"), console=console
    )
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[0] == "Documents [all]"
    assert any(line.split() == ["kept", "12,345", "0.5"] for line in lines)
    kept, dropped = (next(line for line in lines if word in line) for word in ("kept", "dropped"))
    assert kept.index("12,345") + len("12,345") == dropped.index("67") + 2


def test_a_file_gets_the_whole_rows_of_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names in a log can be searched for, however narrow a terminal usually is."""
    monkeypatch.delenv("COLUMNS", raising=False)
    row = ["a name of some length" for _ in range(6)]
    summary_table("Names", [row])
    assert " ".join(row).split() in [line.split() for line in capsys.readouterr().out.splitlines()]
    monkeypatch.setenv("COLUMNS", "60")
    summary_table("Names", [row])
    assert all(len(line) <= 60 for line in capsys.readouterr().out.splitlines())
