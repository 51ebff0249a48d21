"""The wheel: what is in it, and that it works in a folder of its own with nothing of the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from foundation.version import VERSION

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the committed and changed files alone, as a clone has them."""
    clone = tmp_path_factory.mktemp("source") / "altiplano"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_bytes((REPOSITORY / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        ".",
    ]
    subprocess.run(command, cwd=clone, check=True)
    (built,) = out.glob("altiplano-*.whl")
    return built


def test_all_that_the_product_reads_is_in_the_wheel(wheel: Path) -> None:
    assert wheel.name.startswith(f"altiplano-{VERSION}-")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "altiplano = tools.__main__:main" in archive.read(entry_points).decode()
    shipped = {
        path.relative_to(REPOSITORY / "configs") for path in (REPOSITORY / "configs").rglob("*") if path.is_file()
    }
    assert shipped and {f"altiplano_configs/{path}" for path in shipped} <= names
    for package in ("foundation", "data_prep", "pretrain", "tools"):
        for path in (REPOSITORY / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert str(path.relative_to(REPOSITORY)) in names, path
    assert not any(name.startswith(("tests/", "runs/", "docs/")) for name in names)


def test_the_configurations_are_found_outside_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """With the wheel unpacked, which is what installing it does, and this environment's libraries."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    (tmp_path / "elsewhere").mkdir()

    def run(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "configs/train/llama-7b.yaml" in run("-m", "tools", "configs", "list")
    run("-m", "tools", "configs", "copy")
    shipped = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "configs").rglob("*") if path.is_file()}
    copied = {
        path.relative_to(tmp_path / "elsewhere") for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()
    }
    assert copied == shipped
    count = "from data_prep.conversations.templates import shipped_templates as found; print(len(found()))"
    assert int(run("-c", count)) == len(list((REPOSITORY / "configs" / "templates").glob("*.yaml")))


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    """In an empty folder with a `tools` package of its own, which must never be imported."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", str(REPOSITORY / "constraints.txt")]
    torch = re.search(r"^TORCH \?= (\S+)$", (REPOSITORY / "Makefile").read_text(), re.M)
    assert torch is not None
    subprocess.run([*install, torch[1]], check=True, env=environment)
    subprocess.run([*install, f"{wheel}[data,train,convert]"], check=True, env=environment)
    folder = tmp_path / "elsewhere"
    (folder / "tools").mkdir(parents=True)
    (folder / "tools" / "__init__.py").write_text("raise ImportError('somebody else\\'s tools')\n")
    altiplano = str(tmp_path / "venv" / "bin" / "altiplano")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [altiplano, *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"altiplano {' '.join(arguments)}\n{done.stdout[-5000:]}"
        return done.stdout

    assert run("--version").startswith(f"altiplano {VERSION} (code ")
    assert "configs/train/llama-7b.yaml" in run("configs", "list")
    run("demo")
    assert (folder / "configs" / "train" / "demo.yaml").is_file()
    assert (folder / "runs" / "demo" / "report.html").is_file()
    assert json.loads((folder / "runs" / "demo" / "exported_check.json").read_text())["within_bound"]
