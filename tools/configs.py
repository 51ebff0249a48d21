"""The configurations that come with Altiplano: list them, or copy them into a folder of your own."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from foundation.shipped import shipped_configs

EXAMPLES = """examples:
  altiplano configs list
  altiplano configs copy
      all of them to ./configs, where they can be changed; `base:` entries among them keep working
  altiplano configs copy my/configs"""


def copy_configs(to: Path) -> list[Path]:
    """Copy every shipped configuration below `to`.

    Returns:
        The copied files, relative to `to`.

    Raises:
        FileExistsError: one of them exists there and is different; nothing is copied then.
    """
    source = shipped_configs()
    names = [path.relative_to(source) for path in shipped_files()]
    for name in names:
        if (to / name).exists() and (to / name).read_bytes() != (source / name).read_bytes():
            raise FileExistsError(f"{to / name}: exists and is different; work in another folder, or move it away")
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, to / name)
    return names


def shipped_files() -> list[Path]:
    """Every shipped file, sorted."""
    return sorted(path for path in shipped_configs().rglob("*") if path.suffix in (".yaml", ".jsonl", ".jinja"))


def summary(path: Path) -> str:
    """Description of a configuration: the first sentence of the comment at its top."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    sentence, dot, _ = " ".join(lines).partition(". ")
    return (sentence + dot).strip()


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano configs",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="show them with what each is for")
    copy = commands.add_parser("copy", help="copy all of them into a folder")
    copy.add_argument("to", nargs="?", type=Path, default=Path("configs"), help="folder; ./configs when left out")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = make_parser().parse_args(arguments)
    if given.command == "list":
        table = Table("configuration", "what it is", box=None, pad_edge=False)
        root = shipped_configs()
        for path in shipped_files():
            if path.suffix == ".yaml":
                table.add_row(str(Path("configs") / path.relative_to(root)), summary(path))
        console = Console()
        console.print(table)
        console.print("\n`altiplano configs copy` puts them into ./configs", highlight=False)
        return 0
    try:
        names = copy_configs(given.to)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(names)} files are in {given.to}")
    print(f"next: altiplano demo; or copy {given.to}/data/demo.yaml and name your own sources in it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
