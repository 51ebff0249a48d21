"""`altiplano report RUN` writes RUN/report.html; with `--against OTHER` a page about both.

A page is a single file without scripts and without anything from outside. A part that is not there yet is said to be
missing, together with the command that makes it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from foundation.atomic_files import restrict_file_modes, write_text
from tools.report.comparison import comparison
from tools.report.page import page
from tools.report.run import Run

EXAMPLES = """examples:
  altiplano report runs/demo
      writes runs/demo/report.html
  altiplano report runs/a --against runs/b
      writes runs/a/comparison.html"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano report",
        description="Write a page about a whole run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of the run, such as runs/demo")
    parser.add_argument(
        "--against", type=Path, metavar="OTHER", help="compare with this run: RUN/comparison.html instead"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = make_parser().parse_args(arguments)
    restrict_file_modes()
    try:
        run = Run(given.run)
        if given.against is None:
            out = given.run / "report.html"
            write_text(out, page(run))
        else:
            out = given.run / "comparison.html"
            write_text(out, comparison(run, Run(given.against)))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"report: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
