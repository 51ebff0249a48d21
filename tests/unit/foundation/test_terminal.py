"""A program continues when nobody reads its output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
from rich.console import Console
from foundation.terminal import outlast_terminal
outlast_terminal()
input()
for _ in range(3):
    Console().print("step")
    print("step", file=sys.stderr, flush=True)
Path(sys.argv[1]).write_text("saved")
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_broken_connection_does_not_end_it(tmp_path: Path, unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "saved")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stderr.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait() == 0
    assert (tmp_path / "saved").read_text() == "saved"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_under_the_log_does_not_end_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "saved")]
    with open("/dev/full", "wb") as full:
        assert subprocess.run(command, input=b"\n", stdout=full, stderr=full).returncode == 0
    assert (tmp_path / "saved").read_text() == "saved"
