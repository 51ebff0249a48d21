"""Jobs on a real two-node Slurm: trained, signalled, killed, cancelled, and requeued."""

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
import torch

from data_prep.dedup import stage as dedup_stage
from pretrain.checkpoint.layout import STATES
from pretrain.checkpoint.read import CheckpointReader
from pretrain.launch.node_check import EXCLUDED_NODES_FILE
from pretrain.monitor.metrics import read_metrics
from tests.distributed import cases
from tests.distributed.processes import run_processes
from tests.small_run import write_small_run
from tests.system.slurm_cluster import (
    ACTIVE_STATES,
    POLL_SECONDS,
    REPOSITORY,
    Cluster,
    NoSlurm,
    running_cluster,
    site_file,
)
from tests.system.test_data_prep_kill import finish, make_corpus, start
from tools.ladder.run import slurm_command

SCRIPT = "slurm/pretrain.sbatch"
TWO_NODES = ("--nodes=2", "--ntasks-per-node=2", "--time=30")
STEPS = 150
SETTINGS = (
    "parallel.tensor=2",
    "parallel.pipeline=2",
    f"schedule.total_steps={STEPS}",
    "evaluation.every_steps=50",
    "checkpoint.every_steps=50",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    try:
        with running_cluster() as running:
            yield running
    except NoSlurm as reason:
        pytest.skip(f"no Slurm here: {reason}")


class Job:
    """A submitted training job and the folder that it works in."""

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        *arguments: str,
        options: tuple[str, ...] = TWO_NODES,
        config: Path | None = None,
        log: str = "job.log",
        site_settings: str = "",
    ) -> None:
        self.cluster, self.folder, self.output, self.log = cluster, folder, folder / "train", folder / log
        config = config or write_small_run(folder)
        site = {"ALTIPLANO_SITE": str(site_file(folder, site_settings))}
        self.number = cluster.submit(*options, SCRIPT, str(config), *SETTINGS, *arguments, log=self.log, **site)

    def wait_for_step(self, step: int) -> None:
        """Until metrics.jsonl has this step."""
        metrics = self.output / "metrics.jsonl"
        while not (metrics.is_file() and any(line["step"] >= step for line in read_metrics(metrics))):
            self.wait_while_active()
            time.sleep(POLL_SECONDS)

    def wait_while_active(self) -> None:
        state = self.cluster.job(self.number)["JobState"]
        assert state in ACTIVE_STATES, f"{state}:\n{self.text()}"

    def wait(self, state: str = "COMPLETED") -> dict[str, str]:
        return self.cluster.wait(self.number, state, log=self.log)

    def text(self) -> str:
        return self.log.read_text() if self.log.is_file() else ""

    def events(self, event: str) -> list[dict[str, object]]:
        return [line for line in read_metrics(self.output / "metrics.jsonl") if line.get("event") == event]


def assert_undisturbed(job: Job, tmp_path: Path) -> None:
    """The weights and moments at the end are those of the same run without Slurm and without an interruption."""
    config = write_small_run(tmp_path / "undisturbed")
    run_processes(4, cases.train_command, str(config), SETTINGS)
    ours = CheckpointReader(job.output / "checkpoints")
    reference = CheckpointReader(tmp_path / "undisturbed" / "train" / "checkpoints")
    assert ours.step == reference.step == STEPS
    for name in reference.names():
        for state in STATES:
            assert torch.equal(ours.tensor(name, state), reference.tensor(name, state)), f"{state} of {name}"


def test_signalled_job_is_queued_again_and_ends_with_the_bits_of_an_undisturbed_run(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "job").mkdir()
    job = Job(cluster, tmp_path / "job")
    job.wait_for_step(5)
    assert {node: len(cluster.processes(node, job.number)) for node in ("n1", "n2")} == {"n1": 2, "n2": 2}
    # What `--signal=B:USR1@300` makes Slurm do before the time limit: a signal to the batch script alone.
    cluster.call("scancel", "--batch", "--signal=USR1", str(job.number))
    ended = job.wait()
    text = job.text()
    assert ended["Restarts"] == "1", text
    assert "stopping: SIGUSR1 on" in text and "continuing from the checkpoint of step" in text
    (stopped,) = job.events("stopped")
    (resumed,) = job.events("resumed")
    assert stopped["exit_code"] == 75 and stopped["step"] == resumed["step"] not in (0, 50, 100, STEPS)
    assert_undisturbed(job, tmp_path)


@pytest.mark.slow
def test_the_time_limit_itself(cluster: Cluster, tmp_path: Path) -> None:
    """Slurm signals up to a minute early, so a turn may end before its first step; what was saved is kept."""
    (tmp_path / "job").mkdir()
    limit = ("--nodes=2", "--ntasks-per-node=2", "--time=4", "--signal=B:USR1@60")
    endless = ("schedule.total_steps=100000", "evaluation.every_steps=100000", "checkpoint.every_steps=100000")
    job = Job(cluster, tmp_path / "job", *endless, "spikes.enabled=false", options=limit)
    while int(cluster.job(job.number)["Restarts"]) < 1:
        job.wait_while_active()
        time.sleep(POLL_SECONDS)
    text = job.text()
    assert "asking the run to save and stop" in text and "stopping: SIGUSR1" in text, text
    reached = CheckpointReader(job.output / "checkpoints").step
    assert reached > 0
    job.wait_for_step(reached + 1)
    cluster.call("scancel", str(job.number))
    job.wait("CANCELLED")


@pytest.mark.slow
def test_a_rank_killed_on_the_second_node_ends_the_job_within_a_minute_and_it_is_queued_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "job").mkdir()
    job = Job(cluster, tmp_path / "job", "checkpoint.every_steps=10")
    job.wait_for_step(15)
    started = time.monotonic()
    os.kill(cluster.processes("n2", job.number)[0], signal.SIGKILL)
    while int(cluster.job(job.number)["Restarts"]) < 1:
        job.wait_while_active()
        time.sleep(POLL_SECONDS)
    assert time.monotonic() - started < 60
    assert "back into the queue" in job.text()
    job.wait()
    assert_undisturbed(job, tmp_path)


@pytest.mark.slow
def test_what_stays_out_of_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    """Cancelled, refused, ended by a person, or crashing again and again."""
    (tmp_path / "cancelled").mkdir()
    cancelled = Job(cluster, tmp_path / "cancelled")
    cancelled.wait_for_step(5)
    cluster.call("scancel", str(cancelled.number))
    assert cancelled.wait("CANCELLED")["Restarts"] == "0"

    (tmp_path / "refused").mkdir()
    refused = Job(cluster, tmp_path / "refused", "parallel.tensr=2")
    assert refused.wait("FAILED")["ExitCode"] == "2:0"
    assert "did you mean 'tensor'?" in refused.text()

    (tmp_path / "ended").mkdir()
    ended = Job(cluster, tmp_path / "ended", "schedule.total_steps=4000", "evaluation.every_steps=4000")
    ended.wait_for_step(5)
    (ended.output / "stop").write_text("end\n")
    assert ended.wait("FAILED")["ExitCode"] == "130:0"
    assert not (ended.output / "stop").exists()
    assert "ended by a person; not queued again" in ended.text()

    # Killed before it has saved anything, three times.
    (tmp_path / "crashing").mkdir()
    crashing = Job(
        cluster,
        tmp_path / "crashing",
        "spikes.enabled=false",
        "schedule.total_steps=4000",
        "checkpoint.every_steps=4000",
    )
    for attempt in range(3):
        while int(cluster.job(crashing.number)["Restarts"]) < attempt:
            time.sleep(POLL_SECONDS)
        while not cluster.processes("n2", crashing.number):
            crashing.wait_while_active()
            time.sleep(POLL_SECONDS)
        os.kill(cluster.processes("n2", crashing.number)[0], signal.SIGKILL)
    assert crashing.wait("FAILED")["Restarts"] == "2"
    assert "3 tries in a row have saved nothing" in crashing.text()


OUT_OF_MEMORY = """
import os, sys
import torch
from pretrain.__main__ import main
from pretrain.engine.engine import Engine

step = Engine.train_step

def step_3_is_too_large(engine, *arguments, **settings):
    if engine.updates == 2 and os.environ["RANK"] == "2":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return step(engine, *arguments, **settings)

Engine.train_step = step_3_is_too_large
sys.argv = sys.argv[2:]
sys.exit(main())
"""


@pytest.mark.slow
def test_a_gpu_out_of_memory_stays_out_of_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    """Also where srun returns the code of a process that has only lost the one without memory."""
    program = tmp_path / "out_of_memory.py"
    program.write_text(OUT_OF_MEMORY)
    job = Job(cluster, tmp_path, "spikes.enabled=false", site_settings=f"PYTHON+=({program})")
    ended = job.wait("FAILED")
    assert (ended["ExitCode"], ended["Restarts"]) == ("2:0", "0"), job.text()
    text = job.text()
    assert "rank 2 on n2: the GPU's memory is full" in text and "batch.micro_batch_size=1" in text
    assert "stop and look (exit code 75)" in text and "not queued again" in text


@pytest.mark.slow
def test_srun_without_the_variables_of_a_launcher_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/bash\nsrun {sys.executable} -m pretrain --config {write_small_run(tmp_path)}\n")
    number = cluster.submit("--nodes=2", "--ntasks-per-node=2", "--time=30", str(script), log=tmp_path / "job.log")
    assert cluster.wait(number, "FAILED")["ExitCode"] == "2:0"
    text = (tmp_path / "job.log").read_text()
    assert text.count("srun has started 4 tasks without RANK, LOCAL_RANK, WORLD_SIZE") == 1, text
    assert not (tmp_path / "train").exists()


@pytest.mark.slow
def test_one_task_a_node_starts_its_processes_itself_and_a_stop_file_requeues(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    options = (
        "--nodes=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=2",
        "--time=30",
        "--export=ALL,PROCESSES_PER_NODE=2",
    )
    job = Job(cluster, tmp_path / "job", options=options)
    job.wait_for_step(5)
    (job.output / "stop").touch()
    assert job.wait()["Restarts"] == "1"
    assert "train/stop exists" in job.text()
    assert_undisturbed(job, tmp_path)


@pytest.mark.slow
def test_a_node_on_the_list_is_left_out_of_the_next_turn(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    job = Job(cluster, tmp_path / "job", options=("--nodes=1", "--ntasks-per-node=4", "--time=30"))
    job.wait_for_step(5)
    first = cluster.job(job.number)["NodeList"]
    (job.output / EXCLUDED_NODES_FILE).write_text(f"{first}\t2026-01-01T00:00:00Z\tmultiplies matrices wrongly\n")
    cluster.call("scancel", "--batch", "--signal=USR1", str(job.number))
    ended = job.wait()
    assert {first, ended["NodeList"]} == {"n1", "n2"}
    assert ended["ExcNodeList"] == first and f"not on {first} again" in job.text()
    assert_undisturbed(job, tmp_path)


@pytest.mark.slow
def test_a_turn_with_fewer_nodes_goes_on_under_the_next_preferred_topology(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    preferred = "parallel={preferred: [{tensor: 2, pipeline: 2}, {tensor: 2}]}"
    config = write_small_run(tmp_path / "job")
    site = {"ALTIPLANO_SITE": str(site_file(tmp_path))}
    starts = []
    for nodes, last in ((2, 3), (1, 6)):
        log = tmp_path / f"job-{nodes}.log"
        options = (f"--nodes={nodes}", "--ntasks-per-node=2")
        arguments = (SCRIPT, str(config), preferred, f"stop_after_step={last}")
        cluster.wait(cluster.submit(*options, *arguments, log=log, **site), "COMPLETED", log=log)
        starts.append(log.read_text())
    assert "tensor 2 × pipeline 2 × data 1" in starts[0]
    assert "tensor 2 × pipeline 1 × data 1" in starts[1] and "continuing from the checkpoint of step 3" in starts[1]
    assert CheckpointReader(tmp_path / "job" / "train" / "checkpoints").step == 6


@pytest.mark.slow
def test_an_array_is_a_chain_of_turns(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    config = write_small_run(tmp_path / "job")
    log = tmp_path / "turns.log"
    site = {"ALTIPLANO_SITE": str(site_file(tmp_path))}
    number = cluster.submit("--array=1-2%1", "--ntasks=1", SCRIPT, str(config), log=log, **site)
    cluster.wait_for_all(number)
    text = log.read_text()
    assert text.count("pretrain.sbatch, ") == 2 and text.count(": done") == 2
    assert "all 6 steps are done already; nothing to train" in text


@pytest.mark.slow
def test_a_chain_goes_on_whatever_ended_the_turn_before_and_site_settings_reach_every_process(
    cluster: Cluster, tmp_path: Path
) -> None:
    config = write_small_run(tmp_path)
    # A mount namespace is what a container is made of; modules are a function of the shell.
    site_settings = """
        module() { export LOADED="$LOADED $*"; }
        module purge
        module load python/3.11 nccl
        PYTHON=(unshare --mount "${PYTHON[@]}")
        SRUN_OPTIONS+=(--label)
    """
    turns: list[Job] = []
    for turn in range(3):
        after = (f"--dependency=afterany:{turns[-1].number}",) if turns else ()
        options = (*TWO_NODES, "--no-requeue", *after)
        turns.append(Job(cluster, tmp_path, "checkpoint.every_steps=10", options=options, config=config,
                         log=f"turn-{turn}.log", site_settings=site_settings))  # fmt: skip
    crashed, signalled, last = turns
    crashed.wait_for_step(15)
    processes = [pid for node in ("n1", "n2") for pid in cluster.processes(node, crashed.number)]
    assert len(processes) == 4
    for pid in processes:
        assert "LOADED= purge load python/3.11 nccl" in Path(f"/proc/{pid}/environ").read_text().split("\0")
        assert os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
        listening = [c for c in psutil.Process(pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert listening and {connection.laddr.ip for connection in listening} == {"127.0.0.1"}  # the nodes' address
    started = time.monotonic()
    os.kill(cluster.processes("n2", crashed.number)[0], signal.SIGKILL)
    assert crashed.wait("FAILED")["ExitCode"] in ("137:0", "75:0")  # the killed one's, or that of one that lost it
    assert time.monotonic() - started < 60
    assert "could not be requeued; submit the same command again" in crashed.text()
    assert "\n0: step 1/150  loss " in crashed.text()

    lines = read_metrics(crashed.output / "metrics.jsonl")
    signalled.wait_for_step(max(int(line["step"]) for line in lines) + 3)  # where the turn before has not been
    cluster.call("scancel", "--batch", "--signal=USR1", str(signalled.number))
    assert signalled.wait("FAILED")["ExitCode"] == "75:0"
    assert "continuing from the checkpoint of step" in signalled.text() and "stopping: SIGUSR1" in signalled.text()

    assert last.wait()["ExitCode"] == "0:0"
    assert last.events("resumed")[-1]["step"] == last.events("stopped")[-1]["step"]
    assert_undisturbed(last, tmp_path)


@pytest.mark.slow
def test_data_preparation_as_arrays_on_both_nodes(cluster: Cluster, tmp_path: Path) -> None:
    make_corpus(tmp_path)
    (tmp_path / "slurm").mkdir()
    logs = REPOSITORY  # the script submits from the repository, and its logs lie there
    before = set(logs.glob("data_prep-*.log"))
    environment = {
        **cluster.environment,
        "ALTIPLANO_SITE": str(site_file(tmp_path)),
        "TASKS": "4",
        "SBATCH_OPTIONS": "--exclusive --nodes=1",
    }
    command = ["bash", "slurm/data_prep.sbatch", str(tmp_path / "data.yaml"), f"output={tmp_path / 'slurm' / 'run'}"]
    try:
        told = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
        assert told.returncode == 0, told.stdout + told.stderr
        jobs = [int(line.split()[1].rstrip(":")) for line in told.stdout.splitlines() if line.startswith("job ")]
        assert len(jobs) == 8 + len(dedup_stage.STEPS)
        nodes = set()
        for number in jobs:
            nodes |= cluster.wait_for_all(number)
        texts = {path.name: path.read_text() for path in set(logs.glob("data_prep-*.log")) - before}
        assert nodes == {"n1", "n2"}, texts
    finally:
        for path in set(logs.glob("data_prep-*.log")) - before:
            path.unlink()
    finish(start(tmp_path, tmp_path / "alone", workers=2))
    ours, alone = tmp_path / "slurm" / "run" / "tokens", tmp_path / "alone" / "run" / "tokens"
    names = sorted(path.name for path in alone.glob("*.bin"))
    assert names and names == sorted(path.name for path in ours.glob("*.bin"))
    for name in (*names, *(Path(name).with_suffix(".idx").name for name in names)):
        assert (ours / name).read_bytes() == (alone / name).read_bytes(), name


@pytest.mark.slow
def test_an_array_runs_a_configuration_of_a_list_in_each_job(cluster: Cluster, tmp_path: Path) -> None:
    """As `altiplano ladder run --slurm` submits the rungs that are not finished: here the first and the third."""
    configs = []
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        configs.append(write_small_run(tmp_path / name))
    (tmp_path / "rungs.txt").write_text("".join(f"{config}\n" for config in configs))
    command = slurm_command(tmp_path, [0, 2], ("--nodes=1", "--ntasks-per-node=1", "--time=30"))
    site = {"ALTIPLANO_SITE": str(site_file(tmp_path, ""))}
    number = cluster.submit(*command[1:], log=tmp_path / "job-%a.log", **site)
    cluster.wait_for_all(number)
    assert [CheckpointReader(tmp_path / name / "train" / "checkpoints").step for name in ("a", "c")] == [6, 6]
    assert not (tmp_path / "b" / "train").exists()
