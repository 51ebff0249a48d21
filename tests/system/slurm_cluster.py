"""A real two-node Slurm cluster on this host, in a temporary folder: controller, two slurmd and their own munge."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
NODES = ("n1", "n2")
POLL_SECONDS = 0.3
ACTIVE_STATES = {"PENDING", "CONFIGURING", "RUNNING", "SIGNALING", "COMPLETING"}
PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")

# No cgroups and no binding, so that a container or a virtual machine will do. cred_expire is also how long a requeued
# job waits before it starts again.
CONFIGURATION = """
ClusterName=altiplano
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=2
CredType=cred/munge
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=10
MinJobAge=36000
SchedulerParameters=sched_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1_port} CPUs=4 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2_port} CPUs=4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class NoSlurm(RuntimeError):
    """Slurm is not available; the message says why."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        environment: environment variables with which Slurm commands reach it.
    """

    folder: Path
    environment: dict[str, str]

    def call(self, *command: str) -> str:
        """Output of a Slurm command, which must succeed."""
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True, cwd=REPOSITORY)
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout.strip()

    def submit(self, *arguments: str, log: Path, **environment: str) -> int:
        """`sbatch` from the repository; returns the job's number."""
        command = ["sbatch", "--parsable", "--output", str(log), *arguments]
        settings = {**self.environment, **environment}
        result = subprocess.run(command, env=settings, capture_output=True, text=True, cwd=REPOSITORY)
        assert result.returncode == 0, result.stdout + result.stderr
        return int(result.stdout.split(";")[0])

    def job(self, number: int) -> dict[str, str]:
        """The fields of `scontrol show job`: JobState, Restarts, ExitCode, NodeList, ExcNodeList and so on."""
        return dict(
            field.split("=", 1)
            for field in self.call("scontrol", "--oneliner", "show", "job", str(number)).split(" ")
            if "=" in field
        )

    def wait(self, number: int, *states: str, log: Path | None = None) -> dict[str, str]:
        """Wait until a job is in one of these states."""
        while True:
            job = self.job(number)
            if job["JobState"] in states:
                return job
            final = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL")
            text = log.read_text() if log and log.is_file() else ""
            assert job["JobState"] not in final, f"{job['JobState']}, {job.get('Reason')}, {job['ExitCode']}:\n{text}"
            time.sleep(POLL_SECONDS)

    def wait_for_all(self, number: int) -> set[str]:
        """Wait until a job, or every task of an array, has completed; return the nodes that it ran on."""
        while True:
            lines = self.call("scontrol", "--oneliner", "show", "job", str(number)).splitlines()
            tasks = [dict(field.split("=", 1) for field in line.split(" ") if "=" in field) for line in lines]
            states = {task["JobState"] for task in tasks}
            if states == {"COMPLETED"}:
                return {task["NodeList"] for task in tasks}
            bad = states - ACTIVE_STATES - {"COMPLETED"}
            assert not bad, f"job {number}: {bad}: {lines}"
            time.sleep(POLL_SECONDS)

    def processes(self, node: str, number: int) -> list[int]:
        """Process ids of a job's training processes on a node."""
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(folder.name)
                variables = dict(
                    entry.split("=", 1) for entry in (folder / "environ").read_text().split("\0") if "=" in entry
                )
                command = (folder / "cmdline").read_text().split("\0")
                wanted = {"SLURM_JOB_ID": str(number), "SLURMD_NODENAME": node}
                if wanted.items() <= variables.items() and "RANK" in variables and "pretrain" in command:
                    found.append(pid)
        return sorted(found)


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Start a cluster, installing Slurm if possible, and stop all of it afterwards.

    Raises:
        NoSlurm: Slurm is not installed and cannot be, or it does not start.
    """
    _require_programs()
    folder = Path(tempfile.mkdtemp(prefix="altiplano-slurm-"))
    services: list[subprocess.Popen[bytes]] = []
    try:
        yield _start(folder, services)
    finally:
        for service in reversed(services):
            service.terminate()
        for service in services:
            try:
                service.wait(20)
            except subprocess.TimeoutExpired:
                service.kill()
                service.wait()
        _end_orphans(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _require_programs() -> None:
    if os.geteuid() != 0:
        raise NoSlurm("starting slurmd takes root")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise NoSlurm(f"{', '.join(missing)} are not installed, and there is no apt-get to install {PACKAGES}")
    # RUNLEVEL: the packages' own services, with the host's configuration, are not to be started.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES]
    for command in (install, ["apt-get", "update"], install):
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if command is install and result.returncode == 0:
            return
    raise NoSlurm(f"{' '.join(install)} failed: {result.stderr.strip().splitlines()[-1:]}")


def _start(folder: Path, services: list[subprocess.Popen[bytes]]) -> Cluster:
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    ports = dict(zip(("controller_port", "n1_port", "n2_port"), _free_ports(3), strict=True))
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, host=socket.gethostname().split(".")[0], **ports))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    for name in [name for name in environment if name.startswith(("SLURM_", "SBATCH_")) and name != "SLURM_CONF"]:
        del environment[name]  # set when the tests themselves run in a job

    def serve(*command: str) -> None:
        with open(folder / f"{command[0]}.out", "ab") as out:
            services.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=folder))

    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
    serve("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files)
    _until(lambda: (folder / "munge.socket").exists(), services, folder)
    serve("slurmctld", "-D", "-c")
    for node in NODES:
        serve("slurmd", "-D", "-N", node)
    cluster = Cluster(folder, environment)
    _until(lambda: cluster_is_idle(cluster), services, folder)
    return cluster


def cluster_is_idle(cluster: Cluster) -> bool:
    """Whether both nodes are idle."""
    command = ["sinfo", "--noheader", "--Node", "--format", "%N %T"]
    result = subprocess.run(command, env=cluster.environment, capture_output=True, text=True)
    states = dict(line.split() for line in result.stdout.splitlines())
    return result.returncode == 0 and all(states.get(node) == "idle" for node in NODES)


def _until(condition: Any, services: list[subprocess.Popen[bytes]], folder: Path) -> None:
    while not condition():
        for service in services:
            if service.poll() is not None:
                texts = [file.read_text(errors="replace")[-2000:] for file in sorted(folder.glob("*.out"))]
                texts += [file.read_text(errors="replace")[-2000:] for file in sorted(folder.glob("*.log"))]
                raise NoSlurm(f"{service.args!r} ended with {service.returncode}: {' | '.join(texts)}")
        time.sleep(POLL_SECONDS)


def _end_orphans(folder: Path) -> None:
    """Kill slurmstepd and its children, which outlive their slurmd; the folder is in the environment of each."""
    marker = f"SLURM_CONF={folder}/slurm.conf"
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if marker in (entry / "environ").read_text().split("\0") and int(entry.name) != os.getpid():
                os.kill(int(entry.name), 9)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def site_file(folder: Path, settings: str = "") -> Path:
    """A site file that runs the Python of these tests, with these settings of a site."""
    path = folder / "site.sh"
    path.write_text(f"PYTHON=({sys.executable})\nexport OMP_NUM_THREADS=1\n{settings}\n")
    return path


def describe(cluster: Cluster) -> str:
    """State of the cluster, for a failing test."""
    return json.dumps({"queue": cluster.call("squeue"), "nodes": cluster.call("sinfo", "--Node", "--long")})
