"""The rooms of docs/architecture.md, enforced from the imports of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("foundation", "data_prep", "pretrain", "tools")

MAY_IMPORT = {
    "foundation": ("foundation",),
    "data_prep": ("foundation", "data_prep"),
    "data_prep.indexed_dataset": ("foundation", "data_prep.indexed_dataset"),
    "data_prep.kernels": ("foundation", "data_prep.kernels"),
    "data_prep.sources": ("foundation", "data_prep.sources", "data_prep.config", "data_prep.conversations"),
    "data_prep.conversations": (
        "foundation",
        "data_prep.conversations",
        "data_prep.kernels",
        "data_prep.sources",
        "data_prep.tokenizer.encoding",
    ),
    "data_prep.tokenizer.encoding": (
        "foundation",
        "data_prep.config",
        "data_prep.kernels",
        "data_prep.tokenizer.encoding",
    ),
    "pretrain": ("foundation", "pretrain", "data_prep.indexed_dataset"),
    "pretrain.model": (
        "foundation",
        "pretrain.model",
        "pretrain.config",
        "pretrain.device",
        "pretrain.quick_import",
        "pretrain.tuning",
    ),
    "pretrain.families": ("foundation", "pretrain.families", "pretrain.config"),
    "pretrain.launch": ("foundation", "pretrain.launch", "pretrain.config", "pretrain.device"),
    "tools": ("foundation", "data_prep", "pretrain", "tools"),
}
"""Package -> prefixes of what its modules may import; the longest package that a module is in counts."""

ONE_ROOM = {
    "deepspeed": ("pretrain.engine.library", "pretrain.__main__"),
    "datatrove": ("data_prep.run.executors", "tools.bench"),
    "ray": ("data_prep.run.executors",),
    "megatron": ("pretrain.model", "pretrain.engine.library", "pretrain.device", "tools.bench"),
}
"""Library -> the only modules or packages that import it."""


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))}


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, inside functions too; not what is for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_checkers = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and isinstance(test.test, ast.Name) and test.test.id == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if id(node) in for_checkers:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


IMPORTS = {name: sorted(set(imported(path)) - {name}) for name, path in MODULES.items()}


def is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def offences(imports: dict[str, list[str]]) -> list[str]:
    """Imports that MAY_IMPORT or ONE_ROOM forbids."""
    found = []
    for module, names in imports.items():
        room = max((package for package in MAY_IMPORT if is_inside(module, package)), key=len)
        for name in names:
            top = name.split(".")[0]
            allowed = MAY_IMPORT[room] if top in PACKAGES else None
            is_fine = allowed is None or any(is_inside(name, package) for package in allowed)
            if top in ONE_ROOM:
                is_fine = any(is_inside(module, place) for place in ONE_ROOM[top])
            if not is_fine:
                found.append(f"{module} imports {name}")
    return found


def cycle(imports: dict[str, list[str]]) -> list[str]:
    """Modules that import each other in a circle; empty when there are none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for name in imports.get(module, []):
            if found := visit(name, [*path, module]):
                return found
        done.add(module)
        return []

    for module in imports:
        if found := visit(module, []):
            return found
    return []


def test_imports_stay_inside_their_rooms() -> None:
    assert offences(IMPORTS) == []


def test_no_module_imports_one_that_imports_it() -> None:
    assert cycle(IMPORTS) == []


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("pretrain.loop", "data_prep.signals.language"),
        ("data_prep.extract", "tools.demo"),
        ("foundation.progress", "data_prep.config"),
        ("pretrain.loop", "deepspeed"),
        ("data_prep.indexed_dataset.reader", "data_prep.run.manifest"),
        ("pretrain.model.block", "pretrain.engine.engine"),
    ],
)
def test_what_is_forbidden_is_found(module: str, name: str) -> None:
    assert offences({module: [name]}) == [f"{module} imports {name}"]
    assert cycle({**IMPORTS, "foundation.version": ["tools.demo"]}), "a circle is found"


def test_data_preparation_needs_no_torch() -> None:
    """In a process of its own, with every module of data_prep imported."""
    names = [name for name in MODULES if is_inside(name, "data_prep") and not name.endswith("__main__")]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "sys.exit('torch' in sys.modules and 'data_prep imports torch')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_each_stage_is_where_the_table_says() -> None:
    from data_prep.stages import STAGES

    for name, row in STAGES.items():
        assert callable(row.load()), name
        assert set(row.reads) <= set(list(STAGES)[: list(STAGES).index(name)]), f"{name} reads a later stage"
