"""Two hosts behind a real sshd on this machine, for `deepspeed --hostfile`, in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.system.test_pretrain import free_port

SSHD = "/usr/sbin/sshd"  # sshd must be started by its absolute path
PROGRAMS = ("ssh", "ssh-keygen", "pdsh")

SERVER = """
Port {port}
ListenAddress 127.0.0.1
ListenAddress 127.0.0.2
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv PATH={folder}/remote:/usr/local/bin:/usr/bin:/bin {marker}={folder}
"""
CLIENT = """
Host node-a
  HostName 127.0.0.1
Host node-b
  HostName 127.0.0.2
Host *
  Port {port}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  StrictHostKeyChecking accept-new
  LogLevel ERROR
"""
MARKER = "ALTIPLANO_SSH_HOSTS"
"""Environment variable of everything that runs on the two hosts, even after its connection is gone."""
# DeepSpeed's pdsh runner ends its processes by `pkill -f PYTHON -u -m deepspeed.launcher.launch`, which would hit every
# launcher of this machine, whoever started it. This one reaches what runs on these two hosts, by process id.
PKILL = """#!{python}
import re, sys
sys.path.insert(0, "{repository}")
from pathlib import Path
import psutil
from tests.system.ssh_hosts import processes_on_hosts
option, pattern = sys.argv[1:]
assert option == "-f", sys.argv
with open("{folder}/pkill.log", "a") as log:
    log.write(pattern + "\\n")
spared = {{parent.pid for parent in psutil.Process().parents()}} | {{psutil.Process().pid}}
for process in processes_on_hosts(Path("{folder}")):
    if process.pid not in spared and re.search(pattern, " ".join(process.cmdline())):
        process.terminate()
"""


class NoSsh(RuntimeError):
    """sshd is not available; the message says why."""


@dataclass(frozen=True)
class SshHosts:
    """A running sshd.

    Attributes:
        hosts: DeepSpeed's host file: `node-a` and `node-b` with a process each.
        environment: with which `deepspeed` and `pdsh` reach them.
    """

    folder: Path
    hosts: Path
    environment: dict[str, str]

    def asked_to_kill(self) -> list[str]:
        """The patterns that `pkill -f` was called with on the hosts."""
        log = self.folder / "pkill.log"
        return log.read_text().splitlines() if log.is_file() else []


def processes_on_hosts(folder: Path) -> list[psutil.Process]:
    """Processes started through this folder's sshd that are still running."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARKER) == str(folder):
                found.append(process)
    return found


@contextlib.contextmanager
def ssh_hosts(folder: Path) -> Iterator[SshHosts]:
    """Start an sshd on a free loopback port, and end it with everything started through it.

    Raises:
        NoSsh: a program is not installed, or sshd does not start.
    """
    missing = [program for program in (SSHD, *PROGRAMS) if shutil.which(program) is None]
    if missing:
        raise NoSsh(f"not installed: {', '.join(missing)} (Debian's openssh-server and pdsh)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it, and only its service makes it
    names = {"folder": folder, "port": free_port(), "python": sys.executable, "marker": MARKER}
    names["repository"] = Path(__file__).parents[2]
    for key in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    (folder / "sshd_config").write_text(SERVER.format(**names))
    (folder / "ssh_config").write_text(CLIENT.format(**names))
    _write_program(folder / "remote" / "pkill", PKILL.format(**names))
    # What stands in ~/.ssh/config elsewhere: ssh looks for that one by the user's number, not in HOME.
    ssh = f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n'
    _write_program(folder / "local" / "ssh", ssh)
    hosts = folder / "hosts"
    hosts.write_text("node-a slots=1\nnode-b slots=1\n")
    # Of the environment, DeepSpeed takes along PYTHON* and what this file says.
    (folder / "deepspeed_env").write_text("OMP_NUM_THREADS=1\nDS_ACCELERATOR=cpu\n")
    environment = {
        **os.environ,
        "PATH": f"{folder}/local:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DS_ENV_FILE": str(folder / "deepspeed_env"),
        "DS_ACCELERATOR": "cpu",
    }
    with open(folder / "sshd.log", "wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stdout=log, stderr=log)
    try:
        while not (folder / "sshd.pid").is_file():
            if server.poll() is not None:
                raise NoSsh(f"sshd ended: {(folder / 'sshd.log').read_text().strip()}")
            time.sleep(0.1)
        yield SshHosts(folder, hosts, environment)
    finally:
        server.terminate()
        server.wait()
        for process in processes_on_hosts(folder):
            with contextlib.suppress(psutil.Error):
                process.kill()


def _write_program(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o755)
