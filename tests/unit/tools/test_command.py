"""The command `altiplano`: help that fits on a screen and teaches, and completion."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from foundation.shipped import shipped_configs
from foundation.version import VERSION
from tools import __main__ as command_line
from tools import configs
from tools.__main__ import COMMANDS, HELP, find, main

WITH_STAGES = [*COMMANDS, *(("data", stage) for stage in ("run", "add", "freeze", "extract", "decide", "why"))]


def test_help_fits_on_one_screen_and_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert told == HELP and len(lines) <= 40 and max(map(len, lines)) <= 110
    for name in {name[0] for name in COMMANDS}:
        assert re.search(rf"^  {name}\b", told, re.M), name
    order = [told.index(f"\n  {name}") for name in ("demo", "data run", "plan", "train", "report", "convert")]
    assert order == sorted(order), "in the order of work"


def test_the_help_of_data_names_the_commands_beside_its_stages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "--help"])
    told = capsys.readouterr().out
    for name in COMMANDS:
        if name[0] == "data" and len(name) > 1:
            assert name[1] in told, name


@pytest.mark.parametrize("name", WITH_STAGES, ids=" ".join)
def test_every_command_explains_itself_with_examples(name: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        sys.exit(main([*name, "--help"]))
    assert not ended.value.code
    told = capsys.readouterr().out
    usage, _, rest = told.partition("\n\n")
    assert usage.startswith("usage: altiplano "), usage
    assert re.search(r"^ +(altiplano|deepspeed) ", rest, re.M), f"no example:\n{told}"


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(rf"altiplano {re.escape(VERSION)} \(code [0-9a-f]{{12}}\)\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nonsense"], "altiplano: no command 'nonsense'; there are demo, configs, data,"),
        (["convert", "to-onnx"], "no command 'to-onnx'; there are to-hf, from-hf, verify, to-gguf, from-megatron"),
    ],
)
def test_unknown_commands_are_named(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert told in capsys.readouterr().err


def test_a_group_alone_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "--help"]) == 0
    assert all(f"\n  {word}" in capsys.readouterr().out for word in ("inspect",))
    assert main(["checkpoint"]) == 2


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def without(name: str) -> None:
        raise ModuleNotFoundError("No module named 'lm_eval'", name="lm_eval")

    monkeypatch.setattr(command_line.importlib, "import_module", without)
    assert main(["evaluate", "hf"]) == 2
    assert capsys.readouterr().err == "altiplano evaluate: lm_eval is not installed: pip install 'altiplano[eval]'\n"


def test_the_longer_name_wins() -> None:
    found = find(["data", "train-quality", "--help"])
    assert found is not None and found[0] == ("data", "train-quality")
    found = find(["data", "run"])
    assert found is not None and found[0] == ("data",)


def test_completion_in_bash(tmp_path: Path) -> None:
    """A real bash, asked what follows some beginnings of a line."""
    script = tmp_path / "completion.bash"
    with open(script, "w") as file:
        subprocess.run([sys.executable, "-m", "tools", "completion", "bash"], check=True, stdout=file)
    for words, expected in (
        (("da",), {"data"}),
        (("convert", ""), {"to-hf", "from-hf", "verify"}),
        (("checkpoint", ""), {"inspect", "reshape", "extend"}),
        (("tokens", "inspect", "--ver"), {"--verify"}),
        (("data", "run", "--re"), {"--restart"}),
        (("train", "--pro"), {"--processes"}),
    ):
        line = f"COMP_WORDS=(altiplano {' '.join(repr(word) for word in words)}); COMP_CWORD={len(words)}"
        program = f"source {script}; {line}; _shtab_altiplano; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        done = subprocess.run(["bash", "-c", program], check=True, capture_output=True, text=True)
        assert expected <= set(done.stdout.split()), (words, done.stdout, done.stderr)


EDITING = "\x1b[?2004h"
"""What zsh tells a terminal when it is ready for a line."""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_completion_in_zsh(tmp_path: Path) -> None:
    """A real zsh in a terminal, and the tabulator."""
    with open(tmp_path / "_altiplano", "w") as file:
        subprocess.run([sys.executable, "-m", "tools", "completion", "zsh"], check=True, stdout=file)
    (tmp_path / ".zshrc").write_text(f"fpath=({tmp_path} $fpath)\nautoload -U compinit; compinit -u -D\n")
    for line, expected in (
        ("altiplano contam", "altiplano contamination "),
        ("altiplano convert ", "export a checkpoint for transformers"),
        ("altiplano train --con", "--config"),
    ):
        process, terminal = pty.fork()
        if process == 0:
            os.execvpe("zsh", ["zsh", "-i"], {**os.environ, "ZDOTDIR": str(tmp_path), "TERM": "dumb"})
        try:
            said_until(terminal, EDITING)
            os.write(terminal, f"{line}\t".encode())
            said_until(terminal, expected)
        finally:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.close(terminal)


def said_until(terminal: int, expected: str) -> None:
    """Read a terminal until it has shown something."""
    said = ""
    while expected not in said:
        ready, _, _ = select.select([terminal], [], [], 60)
        assert ready, f"{expected!r} is not in {said!r}"
        said += os.read(terminal, 1 << 16).decode(errors="replace")


def test_configurations_are_listed_and_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert configs.main(["list"]) == 0
    assert "configs/train/llama-7b.yaml" in capsys.readouterr().out
    assert configs.main(["copy", str(tmp_path / "own")]) == 0
    copied = {path.relative_to(tmp_path / "own") for path in (tmp_path / "own").rglob("*") if path.is_file()}
    assert copied == {path.relative_to(shipped_configs()) for path in configs.shipped_files()}
    assert configs.main(["copy", str(tmp_path / "own")]) == 0, "again, with nothing changed"
    changed = tmp_path / "own" / "train" / "demo.yaml"
    changed.write_text("# mine\n")
    assert configs.main(["copy", str(tmp_path / "own")]) == 2
    assert f"{changed}: exists and is different" in capsys.readouterr().err
    assert changed.read_text() == "# mine\n"


def test_the_demo_leaves_other_configurations_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "configs" / "model" / "demo.yaml"
    other.parent.mkdir(parents=True)
    other.write_text("# mine\n")
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 2
    assert "configs/model/demo.yaml: exists and is different" in capsys.readouterr().err
    assert other.read_text() == "# mine\n" and not (tmp_path / "runs").exists()
