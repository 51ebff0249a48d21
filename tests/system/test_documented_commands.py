"""Every command line in the README and the documentation is accepted by its program, as typed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tools.__main__ import whole_parser
from tools.configs import copy_configs

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BIN = Path(sys.executable).parent


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(language, content) of each block of code."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S):
        yield match[1], match[2]


def commands(page: Path) -> Iterator[list[str]]:
    """Command lines of a page, without comments; a trailing backslash continues a line."""
    for language, content in blocks(page):
        if language:
            continue
        for line in re.sub(r"\\\n\s*", " ", content).splitlines():
            if re.match(r"(altiplano|deepspeed|torchrun|python|sbatch) ", line):
                yield shlex.split(line, comments=True)


DOCUMENTED = [(page.name, command) for page in PAGES for command in commands(page)]


def test_the_pages_have_commands() -> None:
    programs = {command[0] for _, command in DOCUMENTED}
    assert {"altiplano", "deepspeed", "torchrun", "sbatch"} <= programs and len(DOCUMENTED) > 40


def test_every_altiplano_line_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    parser = whole_parser()
    for page, command in DOCUMENTED:
        if command[0] != "altiplano" or "--help" in command:
            continue
        words = [word for word in command[1:] if word != "…"]
        try:
            _, left = parser.parse_known_args(words)
        except SystemExit:
            pytest.fail(f"{page}: {shlex.join(command)}\n{capsys.readouterr().err}")
        assert all("=" in word for word in left), f"{page}: {shlex.join(command)}: {left} is not understood"


LAUNCHED = [
    pytest.param(page, command, id=f"{page}-{command[0]}-{number}")
    for number, (page, command) in enumerate(DOCUMENTED)
    if command[0] in ("deepspeed", "torchrun") and "configs/train/llama-7b.yaml" in command
]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), LAUNCHED)
def test_launchers_start_the_program_as_typed(page: str, command: list[str]) -> None:
    """With `--show` appended, so that each process prints one setting and ends."""
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(REPOSITORY)
    done = subprocess.run(
        [*command, "--show", "output"], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{page}: {shlex.join(command)}\n{done.stderr[-3000:]}"
    assert done.stdout.count("runs/llama-7b") == 8, done.stdout


@pytest.mark.slow
def test_the_tutorial_works_from_top_to_bottom(tmp_path: Path) -> None:
    """The tutorial's files and commands, in order, with less training."""
    notes = tmp_path / "notes"
    notes.mkdir()
    library = Path(os.__file__).parent
    for number, source in enumerate(sorted(library.rglob("*.py"))[:400]):
        text = re.findall(r'"""(.*?)"""', source.read_text(encoding="utf-8", errors="replace"), re.S)
        (notes / f"{number}.txt").write_text("\n\n".join(text))
    copy_configs(tmp_path / "mine")
    page = REPOSITORY / "docs" / "tutorial.md"
    data, train = (yaml.safe_load(content) for language, content in blocks(page) if language == "yaml")
    data["sources"][0]["paths"] = [str(notes)]
    train["schedule"] |= {"total_steps": 4, "warmup_steps": 1}
    train["evaluation"]["every_steps"] = train["checkpoint"]["every_steps"] = 2
    (tmp_path / "mine" / "data" / "notes.yaml").write_text(yaml.safe_dump(data))
    (tmp_path / "mine" / "train" / "notes.yaml").write_text(yaml.safe_dump(train))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DS_ACCELERATOR": "cpu"}
    ran = []
    for command in commands(page):
        if command[:2] == ["altiplano", "configs"]:
            continue
        arguments = [sys.executable, "-m", "tools", *command[1:]]
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        ran.append(command[1])
    assert ran.count("data") == 4 and {"train", "convert", "report"} <= set(ran)
    (python,) = (content for language, content in blocks(page) if language == "python")
    done = subprocess.run([sys.executable, "-c", python], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "Yesterday" in done.stdout, done.stderr
    assert (tmp_path / "runs" / "notes" / "report.html").is_file()
