"""Data preparation as arrays of tasks on a real Slurm: the bytes of one process, and a failure that stops the rest."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.system.slurm_cluster import POLL_SECONDS, REPOSITORY, Cluster, NoSlurm, running_cluster, site_file
from tests.system.test_data_prep_kill import bytes_of, finish, make_corpus, records, start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    try:
        with running_cluster() as running:
            yield running
    except NoSlurm as reason:
        pytest.skip(f"no Slurm here: {reason}")


def submit(cluster: Cluster, corpus: Path, folder: Path, tasks: int) -> list[int]:
    """All jobs of a run whose output is `folder/run`, by number."""
    settings = yaml.safe_load((corpus / "data.yaml").read_text()) | {"output": str(folder / "run")}
    config = folder / "data.yaml"
    config.write_text(yaml.safe_dump(settings))
    result = subprocess.run(
        ["slurm/data_prep.sbatch", str(config)],
        env={
            **cluster.environment,
            "TASKS": str(tasks),
            "SBATCH_OPTIONS": f"--cpus-per-task 2 --time 30 --output {folder}/%x-%A-%a.log",
            "ALTIPLANO_SITE": str(site_file(folder)),
        },
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return [int(number) for number in re.findall(r"^job (\d+):", result.stdout, re.MULTILINE)]


def logs(folder: Path) -> str:
    return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(folder.glob("*.log")))


def test_arrays_of_tasks_write_the_bytes_of_one_process(
    cluster: Cluster, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    corpus = tmp_path_factory.mktemp("corpus")
    make_corpus(corpus)
    numbers = submit(cluster, corpus, tmp_path, tasks=3)
    assert len(numbers) == 8
    try:
        cluster.wait(numbers[-1], "COMPLETED")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{logs(tmp_path)}") from None
    shares = [path for path in tmp_path.glob("data_prep-measure-*.log") if "share" in path.read_text()]
    assert len(shares) == 3
    finish(start(corpus, tmp_path / "alone", workers=1))
    # the ledger is titled by its output
    ours, alone = bytes_of(tmp_path), bytes_of(tmp_path / "alone")
    assert {name for name in ours.keys() | alone.keys() if ours.get(name) != alone.get(name)} <= {
        "ledger.html",
        "commits/ledger/ledger.json",
    }


def test_a_failure_cancels_what_follows_and_the_same_command_goes_on(
    cluster: Cluster, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    corpus = tmp_path_factory.mktemp("corpus")
    make_corpus(corpus)
    good = (corpus / "notes.jsonl").read_bytes()
    (corpus / "notes.jsonl").write_bytes(good.replace(b'"text"', b'"body"'))
    numbers = submit(cluster, corpus, tmp_path, tasks=2)
    while cluster.job(numbers[-1])["JobState"] != "CANCELLED":
        time.sleep(POLL_SECONDS)
    assert "a JSONL source needs one object per line with the field `text`" in logs(tmp_path)
    done = records(tmp_path)
    assert done["extract"] > 0 and done["measure"] == 0
