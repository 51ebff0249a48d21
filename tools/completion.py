"""Print a script that completes `altiplano` commands, options and settings in a shell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

EXAMPLES = """examples:
  altiplano completion bash > ~/.local/share/bash-completion/completions/altiplano
  altiplano completion zsh > ~/.zfunc/_altiplano        with fpath+=~/.zfunc before compinit in ~/.zshrc

Print it again after an update."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano completion",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = make_parser().parse_args(arguments)
    import shtab

    from tools.__main__ import whole_parser

    print(shtab.complete(whole_parser(), shell=given.shell))
    return 0


if __name__ == "__main__":
    sys.exit(main())
