"""A run stopped under each launcher, by a person or a scheduler, is saved once and can be resumed; two nodes without
ssh."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pretrain.checkpoint.read import CheckpointReader
from pretrain.monitor.metrics import read_metrics
from tests.small_run import write_small_run
from tests.system.ssh_hosts import NoSsh, SshHosts, processes_on_hosts, ssh_hosts
from tests.system.test_pretrain import free_port

pytestmark = pytest.mark.slow

ENDLESS = ("parallel.pipeline=2", "schedule.total_steps=20000", "evaluation.every_steps=20000",
           "checkpoint.every_steps=20000", "spikes.enabled=false")  # fmt: skip
BIN = Path(sys.executable).parent


def launch(*command: str, log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """In a process group of its own, as a shell starts a command."""
    environment = environment or {
        **os.environ,
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    with open(log, "wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)


def torchrun(config: Path, *arguments: str) -> list[str]:
    """As docs/slurm.md says, so that nothing listens but on the loopback."""
    return [str(BIN / "torchrun"), "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-conf", "store_type=file",
            "--local-addr", "127.0.0.1", "-m", "pretrain", "--config", str(config), *arguments]  # fmt: skip


def deepspeed(config: Path, *arguments: str) -> list[str]:
    return [str(BIN / "deepspeed"), "--num_gpus", "2", "--master_port", free_port(), "--module", "pretrain", "--config",
            str(config), *arguments]  # fmt: skip


def altiplano(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tools", "train", "--config", str(config), *arguments]


def wait_for_step(folder: Path, step: int, launcher: subprocess.Popen[bytes], log: Path) -> None:
    metrics = folder / "train" / "metrics.jsonl"
    while not (metrics.is_file() and any(line["step"] >= step for line in read_metrics(metrics))):
        assert launcher.poll() is None, log.read_text()
        time.sleep(0.3)


@pytest.mark.parametrize(
    ("launcher", "number", "whole_group", "said"),
    [
        ("torchrun", signal.SIGTERM, False, "stopping: SIGTERM"),
        ("deepspeed", signal.SIGTERM, False, "stopping: SIGTERM"),
        ("deepspeed", signal.SIGINT, True, "stopping: Ctrl-C"),
        ("altiplano", signal.SIGTERM, False, "stopping: SIGTERM"),
        ("altiplano", signal.SIGINT, True, "stopping: Ctrl-C"),
        ("alone", signal.SIGINT, True, "stopping: Ctrl-C"),
    ],
)
def test_saved_once_and_said(tmp_path: Path, launcher: str, number: int, whole_group: bool, said: str) -> None:
    config, log = write_small_run(tmp_path), tmp_path / "log"
    endless = ENDLESS if launcher != "alone" else ENDLESS[1:]
    commands = {
        "torchrun": torchrun(config, *endless),
        "deepspeed": deepspeed(config, *endless),
        "altiplano": altiplano(config, *endless),
        "alone": [sys.executable, "-m", "pretrain", "--config", str(config), *endless],
    }
    process = launch(*commands[launcher], log=log)
    wait_for_step(tmp_path, 3, process, log)
    assert addresses_listened_on(process.pid) <= {"127.0.0.1"}
    if whole_group:  # Ctrl-C in a terminal reaches every process of the foreground group
        os.killpg(process.pid, number)
    else:
        target = process.pid
        if launcher == "deepspeed":  # deepspeed's front end does not forward signals; its launcher on the node does
            target = int(subprocess.check_output(["pgrep", "-P", str(process.pid)]).split()[0])
        os.kill(target, number)
    process.wait()
    while "is saved, and the same command continues from there" not in log.read_text():
        time.sleep(0.3)  # deepspeed's front end ends before its processes do
    text = log.read_text()
    assert said in text and text.count("saved ") == 1, text
    if launcher in ("alone", "altiplano"):
        assert process.returncode == (130 if number == signal.SIGINT else 75)
    (stopped,) = [line for line in read_metrics(tmp_path / "train" / "metrics.jsonl") if line.get("event") == "stopped"]
    assert CheckpointReader(tmp_path / "train" / "checkpoints").step == stopped["step"] >= 3


def test_a_killed_launcher_leaves_no_run_behind(tmp_path: Path) -> None:
    """Nothing can be passed on after SIGKILL; the processes save and end, and the same command goes on."""
    config, log = write_small_run(tmp_path), tmp_path / "log"
    process = launch(*altiplano(config, *ENDLESS), log=log)
    wait_for_step(tmp_path, 3, process, log)
    ranks = psutil.Process(process.pid).children()
    assert len(ranks) == 2
    process.kill()
    _, alive = psutil.wait_procs(ranks, timeout=300)
    assert not alive, log.read_text()
    (stopped,) = [line for line in read_metrics(tmp_path / "train" / "metrics.jsonl") if line.get("event") == "stopped"]
    assert CheckpointReader(tmp_path / "train" / "checkpoints").step == stopped["step"] >= 3
    assert launch(*altiplano(config, *ENDLESS, f"stop_after_step={stopped['step'] + 1}"), log=log).wait() == 0


def addresses_listened_on(pid: int) -> set[str]:
    """Bytes written by a process and all its descendants."""
    front = psutil.Process(pid)
    connections = [c for one in (front, *front.children(recursive=True)) for c in one.net_connections("inet")]
    found = {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}
    assert found or "-m" in front.cmdline()[:3]  # alone, it needs nobody
    return found


def test_exit_codes_come_through(tmp_path: Path) -> None:
    config, log = write_small_run(tmp_path), tmp_path / "log"
    launchers = (torchrun, deepspeed, altiplano)
    for command in (launcher(config, "data.mixture=none") for launcher in launchers):
        code = launch(*command, log=log).wait()
        assert code == (1 if "torchrun" in command[0] else 2), log.read_text()  # torchrun knows only this one
        assert "none: no such file" in log.read_text()


def test_deepspeed_with_a_host_file_and_without_ssh(tmp_path: Path) -> None:
    config = write_small_run(tmp_path)
    hosts, port = tmp_path / "hosts", free_port()
    hosts.write_text("node-a slots=2\nnode-b slots=2\n")
    processes = []
    for rank in (0, 1):
        command = [str(BIN / "deepspeed"), "--hostfile", str(hosts), "--no_ssh", "--node_rank", str(rank)]
        command += ["--master_addr", "127.0.0.1", "--master_port", port, "--module", "pretrain"]
        command += ["--config", str(config), "parallel.tensor=2", "parallel.pipeline=2"]
        processes.append(launch(*command, log=tmp_path / f"log-{rank}"))
    assert [process.wait() for process in processes] == [0, 0], (tmp_path / "log-0").read_text()
    assert CheckpointReader(tmp_path / "train" / "checkpoints").step == 6
    assert "tensor 2 × pipeline 2 × data 1" in (tmp_path / "log-0").read_text()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[SshHosts]:
    (tmp_path / "ssh").mkdir()
    try:
        with ssh_hosts(tmp_path / "ssh") as running:
            yield running
    except NoSsh as reason:
        pytest.skip(f"no sshd here: {reason}")


def test_deepspeed_with_a_host_file_over_ssh(hosts: SshHosts, tmp_path: Path) -> None:
    config, log = write_small_run(tmp_path), tmp_path / "log"

    def over_ssh(*arguments: str) -> subprocess.Popen[bytes]:
        command = [str(BIN / "deepspeed"), "--hostfile", str(hosts.hosts), "--master_addr", "127.0.0.1"]
        command += ["--master_port", free_port(), "--module", "pretrain", "--config", str(config), *arguments]
        return launch(*command, log=log, environment=hosts.environment)

    assert over_ssh("parallel.pipeline=2", "stop_after_step=3").wait() == 0, log.read_text()
    text = log.read_text()
    assert "tensor 1 × pipeline 2 × data 1" in text and "node-b: " in text, text
    assert CheckpointReader(tmp_path / "train" / "checkpoints").step == 3

    process = over_ssh(*ENDLESS)
    wait_for_step(tmp_path, 6, process, log)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 1
    while processes_on_hosts(hosts.folder):
        time.sleep(0.3)  # they save when the command has ended
    assert hosts.asked_to_kill() and all("deepspeed.launcher.launc" in one for one in hosts.asked_to_kill())
    (stopped,) = [line for line in read_metrics(tmp_path / "train" / "metrics.jsonl") if line.get("event") == "stopped"]
    assert CheckpointReader(tmp_path / "train" / "checkpoints").step == stopped["step"] >= 6
