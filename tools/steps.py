"""Commands that are run one after the other, each shown as anybody would type it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text

from pretrain.checkpoint.layout import CheckpointError
from pretrain.checkpoint.read import CheckpointReader


def installed_command(name: str) -> list[str] | None:
    """A program of this Python environment, whether or not the environment is activated; None when it has none."""
    path = Path(sys.executable).with_name(name)
    return [str(path)] if path.is_file() else None


def altiplano() -> list[str]:
    """The command `altiplano` of this Python environment."""
    return installed_command("altiplano") or [sys.executable, "-m", "tools"]


class Steps:
    """Shows and runs commands; the first that fails ends this program with its exit code."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def run(self, title: str, command: Sequence[str]) -> None:
        self.title(title)
        shown = [Path(command[0]).name, *command[1:]]
        self._console.print(Text(f"$ {shlex.join(shown)}", style="dim"), soft_wrap=True)
        environment = dict(os.environ)
        if not torch.cuda.is_available():
            environment.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed's launcher warns that it found no GPU
        code = subprocess.run(command, check=False, env=environment).returncode
        if code:
            self._console.print(Text(f"{title}: the command above ended with exit code {code}", style="bold red"))
            self._console.print("What was finished is kept: mend what it says and run this again.")
            sys.exit(code)

    def skip(self, title: str, reason: str) -> None:
        self.title(title)
        self._console.print(f"done already: {reason}", soft_wrap=True)

    def title(self, title: str) -> None:
        """Show a heading; an empty one is none."""
        if title:
            self._console.print()
            self._console.rule(Text(title, style="bold"), align="left")


def finished_steps(checkpoints: Path) -> int:
    """Steps of the newest checkpoint; 0 when there is none or it is damaged, which the trainer reports."""
    try:
        return CheckpointReader(checkpoints).step
    except CheckpointError:
        return 0
