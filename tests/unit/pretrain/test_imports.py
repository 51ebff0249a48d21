"""A training process imports the token file format of data preparation, and nothing else of it."""

from __future__ import annotations

import ast
from pathlib import Path

import pretrain

PACKAGE = Path(pretrain.__file__).parent
ALLOWED = "data_prep.indexed_dataset"


def imported(path: Path) -> set[str]:
    """Modules that a file imports, inside of functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.add(node.module or "")
    return found


def test_pretrain_needs_the_indexed_dataset_alone() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    found = {str(path.relative_to(PACKAGE)): imported(path) for path in files}
    assert any(name.startswith(ALLOWED) for names in found.values() for name in names)  # so that the next line can fail
    others = {
        file: sorted(
            name for name in names if name.split(".")[0] in ("data_prep", "tools") and not name.startswith(ALLOWED)
        )
        for file, names in found.items()
    }
    assert {file: names for file, names in others.items() if names} == {}


def test_deepspeed_is_imported_in_one_file() -> None:
    importing = [path for path in PACKAGE.rglob("*.py") if any(n.split(".")[0] == "deepspeed" for n in imported(path))]
    assert [path.relative_to(PACKAGE).as_posix() for path in importing] == ["engine/library.py"]
