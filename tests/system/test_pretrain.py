"""The training command as a person types it: launched, stopped, resumed, and given unusable input."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from foundation.atomic_files import sha256_file
from pretrain.checkpoint.layout import STATES
from pretrain.checkpoint.read import CheckpointReader
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import load_mixture
from pretrain.launch.run_lock import LOCK_FILE, RunLock
from pretrain.monitor.metrics import CLOCKED, read_metrics
from tests.small_run import LENGTH, write_small_run
from tools.report.__main__ import main


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with token files and `train.yaml`."""
    return write_small_run(tmp_path).parent


SECRETS = {"WANDB_API_KEY": "a-secret-that-must-stay-one", "HF_TOKEN": "another-secret-that-must-stay-one"}
"""In the environment of every run here."""


def pretrain(run: Path, *overrides: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pretrain"]
    if processes > 1:
        launcher = str(Path(sys.executable).with_name("deepspeed"))
        command = [launcher, "--num_gpus", str(processes), "--master_port", free_port(), "--module", "pretrain"]
    environment = {
        **os.environ,
        **SECRETS,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return subprocess.run(
        [*command, "--config", str(run / "train.yaml"), *overrides],
        capture_output=True,
        text=True,
        env=environment,
        umask=0,  # the most generous one that a shell can have
    )


def free_port() -> str:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def refused(run: Path, *overrides: str) -> str:
    """The message of a run that must end with exit code 2."""
    result = pretrain(run, *overrides)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_stopped_and_gone_on_is_the_same_as_never_stopped(run: Path) -> None:
    shape = ("parallel.tensor=2", "parallel.pipeline=2", "parallel.data=2")
    for overrides in (("stop_after_step=3",), ()):
        result = pretrain(run, *shape, *overrides, processes=8)
        assert result.returncode == 0, result.stdout + result.stderr
    assert "continuing from the checkpoint of step 3" in result.stdout
    undisturbed = f"output={run / 'undisturbed'}"
    assert pretrain(run, *shape, undisturbed, processes=8).returncode == 0

    ours, reference = (CheckpointReader(run / name / "checkpoints") for name in ("train", "undisturbed"))
    assert ours.step == reference.step == 6
    for name in reference.names():
        for state in STATES:
            assert torch.equal(ours.tensor(name, state), reference.tensor(name, state)), f"{state} of {name}"
    lines = {name: read_metrics(run / name / "metrics.jsonl") for name in ("train", "undisturbed")}
    steps = {
        name: [{key: line[key] for key in line.keys() - CLOCKED} for line in found if line["kind"] == "train"]
        for name, found in lines.items()
    }
    assert steps["train"] == steps["undisturbed"]
    assert [line["step"] for line in steps["train"]] == [1, 2, 3, 4, 5, 6]
    assert steps["train"][-1]["consumed_samples"] == 48
    assert steps["train"][-1]["consumed_tokens"] == 48 * LENGTH
    assert steps["train"][-1]["loss"] < steps["train"][0]["loss"]
    evaluations = [line for line in lines["train"] if line["kind"] == "evaluation"]
    assert [line["step"] for line in evaluations] == [3, 6]

    assert_kept_to_itself(run / "train", result.stdout + result.stderr)

    # And under fewer processes: the checkpoint fits any topology.
    more = pretrain(run, "schedule.total_steps=7")
    assert more.returncode == 0, more.stderr
    assert "changed since step-00000006: schedule.total_steps: 6 -> 7" in more.stdout
    assert CheckpointReader(run / "train" / "checkpoints").step == 7

    # A file of the newest checkpoint is missing: reported by name, and the one before is used.
    (run / "train" / "checkpoints" / "step-00000007" / "rank-00000.safetensors").unlink()
    again = pretrain(run, "schedule.total_steps=7")
    assert again.returncode == 0, again.stderr
    assert "rank-00000.safetensors: missing" in again.stdout
    assert "continuing from the checkpoint of step 6" in again.stdout

    # No checkpoint is complete: the run refuses to train over them.
    for folder in (run / "train" / "checkpoints").glob("step-*"):
        (folder / "rank-00000.safetensors").unlink()
    message = refused(run, "schedule.total_steps=8")
    assert "no checkpoint is whole" in message and "rank-00000.safetensors: missing" in message

    # Other data under the same run.
    message = refused(run, f"output={run / 'undisturbed'}", "seed=99", "schedule.total_steps=8")
    assert "written with seed=1234, now 99: restore it, or use a new output folder" in message


def assert_kept_to_itself(output: Path, said: str) -> None:
    """Secrets of the environment appear in no file and not on the terminal; no file is writable by others."""
    assert main([str(output.parent)]) == 0
    files = [*output.rglob("*"), output.parent / "report.html"]
    assert len(files) > 10
    for path in files:
        assert path.stat().st_mode & 0o022 == 0, path
        assert not path.is_file() or not any(secret.encode() in path.read_bytes() for secret in SECRETS.values()), path
    assert not any(secret in said for secret in SECRETS.values())


def test_all_that_is_held_out_counts_once_whatever_the_batch(run: Path) -> None:
    """At a learning rate that changes nothing, batches that leave a rest and one that is larger than all give the same
    loss; under pipeline parallelism too."""
    found = []
    still = ("optimizer.learning_rate=1e-30", "schedule.total_steps=1", "schedule.warmup_steps=0", "precision=fp32")
    for number, (processes, *overrides) in enumerate(
        [
            (1, "batch.global_batch_size=1", "batch.micro_batch_size=1"),
            (1, "batch.global_batch_size=80"),
            (2, "batch.global_batch_size=16", "parallel.pipeline=2"),
        ]
    ):
        output = run / str(number)
        whole = ("evaluation.batches=1000", "evaluation.every_steps=1", f"output={output}")
        result = pretrain(run, *still, *whole, *overrides, processes=processes)
        assert result.returncode == 0, result.stdout + result.stderr
        (line,) = [line for line in read_metrics(output / "metrics.jsonl") if line["kind"] == "evaluation"]
        found.append((line["tokens"], line["loss"]))
    assert found[0][0] % (16 * LENGTH) and found[0][0] < 80 * LENGTH
    assert [tokens for tokens, _ in found[1:]] == [found[0][0]] * 2
    np.testing.assert_allclose([loss for _, loss in found], found[0][1], rtol=1e-6)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("parallel.tensr=2", "command line: parallel.tensr: unknown setting; did you mean 'tensor'?"),
        ("parallel.tensor=2", "parallel.tensor 2 × parallel.pipeline 1 = 2 must divide the number of processes, 1"),
        ("parallel.data=3", "must be a multiple of batch.micro_batch_size 2 × data-parallel processes 3"),
        ("data.sequence_length=64", "data.sequence_length: 64 is longer than model.maximum_positions 32"),
        ("model.vocabulary_size=301", "model.vocabulary_size: 301 differs from the 300 of data.mixture"),
        ("data.mixture=nowhere.yaml", "nowhere.yaml: no such file"),
    ],
)
def test_settings_that_cannot_be_used(run: Path, override: str, message: str) -> None:
    assert message in refused(run, override)


def test_an_unknown_key_names_its_line(run: Path) -> None:
    config = run / "train.yaml"
    config.write_text(config.read_text() + "optimiser:\n  learning_rate: 1\n")
    line = len(config.read_text().splitlines()) - 1
    assert f"train.yaml:{line}: optimiser: unknown setting; did you mean 'optimizer'?" in refused(run)


def test_a_truncated_bin_is_named(run: Path) -> None:
    file = run / "text.bin"
    file.write_bytes(file.read_bytes()[:1001])
    message = refused(run)
    assert "text.bin" in message and "1001" in message


def test_no_rank_is_left_waiting_when_the_numbers_run_away(run: Path) -> None:
    runaway = ("optimizer.learning_rate=1e30", "optimizer.gradient_clipping=1e30", "parallel.pipeline=2")
    result = pretrain(run, *runaway, "spikes.enabled=false", processes=2)
    assert result.returncode == 3
    assert "not finite" in result.stderr and "step " in result.stderr

    # Watched, 20 steps of it make a spike that is answered: back to the start, three times, and the end.
    result = pretrain(run, *runaway, "schedule.total_steps=100", "evaluation.every_steps=100", processes=2)
    assert result.returncode == 3, result.stdout + result.stderr
    assert "the run stops" in result.stderr and "docs/on_call.md" in result.stderr
    assert len((run / "train" / "spikes.jsonl").read_text().splitlines()) == 4


def test_sequence_length_changes_on_the_way(run: Path) -> None:
    phases = (
        f"data.phases=[{{from_sample: 16, sequence_length: {LENGTH // 2}}}, {{from_sample: 32, sequence_length: 24}}]"
    )
    losses = {}
    for processes in (1, 2):
        output = run / f"pipeline-{processes}"
        shape = ("evaluation.every_steps=1", f"parallel.pipeline={processes}", "precision=fp32", f"output={output}")
        result = pretrain(run, phases, *shape, processes=processes)
        assert result.returncode == 0, result.stdout + result.stderr
        lines = read_metrics(output / "metrics.jsonl")
        losses[processes] = [line["loss"] for line in lines if line["kind"] in ("train", "evaluation")]
    tokens = [line["consumed_tokens"] for line in lines if line["kind"] == "train"]
    assert tokens == list(np.cumsum([8 * LENGTH] * 2 + [4 * LENGTH] * 2 + [8 * 24] * 2))
    np.testing.assert_allclose(losses[1], losses[2], rtol=1e-5)


def test_help_teaches() -> None:
    result = subprocess.run([sys.executable, "-m", "pretrain", "--help"], capture_output=True, text=True)
    assert result.returncode == 0
    assert "deepspeed --num_gpus 8 --module pretrain" in result.stdout


@pytest.mark.slow
def test_what_the_loss_leaves_out_and_documents_apart(run: Path) -> None:
    """With a loss mask and separate documents: the same losses under pipeline 2 × tensor 2, others than without."""

    def losses(*overrides: str, processes: int = 1) -> list[float]:
        output = run / f"{len(list(run.iterdir()))}"
        result = pretrain(run, *overrides, "precision=fp32", f"output={output}", processes=processes)
        assert result.returncode == 0, result.stdout + result.stderr
        return [line["loss"] for line in read_metrics(output / "metrics.jsonl") if line["kind"] == "train"]

    plain, apart = losses(), losses("objective.separate_documents=true")
    assert np.abs(np.subtract(plain, apart)).max() > 1e-4
    mixture = yaml.safe_load((run / "mixture.yaml").read_text())
    tokens = mixture["datasets"][0]["tokens"]
    mask = (np.arange(tokens) // 7 % 2).astype(np.uint8)
    (run / "text.loss_mask").write_bytes(mask.tobytes())
    mixture["datasets"][0]["sha256"]["loss_mask"] = sha256_file(run / "text.loss_mask")
    (run / "mixture.yaml").write_text(yaml.safe_dump(mixture))
    four = ("parallel.pipeline=2", "parallel.tensor=2")
    masked = losses()
    assert np.abs(np.subtract(plain, masked)).max() > 1e-3
    np.testing.assert_allclose(losses(*four, processes=4), masked, rtol=1e-5)
    both = ("objective.separate_documents=true",)
    np.testing.assert_allclose(losses(*four, *both, processes=4), losses(*both), rtol=1e-5)
    assert "objective.kind: prefix cannot be trained on" in refused(run, "objective.kind=prefix", f"output={run / 'p'}")


def test_a_second_run_in_the_same_folder_is_refused(run: Path) -> None:
    with RunLock(run / "train"):
        told = refused(run)
        assert f"output: {run / 'train'} is in use by process {os.getpid()} on" in told
        assert "give this run another output folder, or stop that one first" in told
    assert not (run / "train" / "metrics.jsonl").exists()
    assert pretrain(run, "stop_after_step=2").returncode == 0
    assert not (run / "train" / LOCK_FILE).exists()


def test_a_source_in_which_nothing_is_learnt_is_refused(run: Path) -> None:
    mixture = yaml.safe_load((run / "mixture.yaml").read_text())
    silent = run / "text.loss_mask"
    silent.write_bytes(bytes(mixture["datasets"][0]["tokens"]))
    mixture["datasets"][0]["sha256"]["loss_mask"] = sha256_file(silent)
    (run / "mixture.yaml").write_text(yaml.safe_dump(mixture))
    assert "mixture.yaml: dataset 'text': by its loss mask no token in any of its samples counts" in refused(run)


def test_steps_in_which_nothing_is_learnt_are_passed_over_and_saved(run: Path) -> None:
    """The last step too: what it is due for, a checkpoint and an evaluation, is done. Resumed, the same bits follow."""
    mixture = yaml.safe_load((run / "mixture.yaml").read_text())
    reader = SampleReader(load_mixture(run / "mixture.yaml"), LENGTH, 1234)
    mask = np.zeros(mixture["datasets"][0]["tokens"], np.uint8)
    for sample in (*range(16), *range(24, 40)):  # steps 1, 2, 4 and 5 of six, of eight samples each
        described = reader.describe(sample)
        mask[described.start + 1 : described.stop] = 1
    (run / "text.loss_mask").write_bytes(mask.tobytes())
    mixture["datasets"][0]["sha256"]["loss_mask"] = sha256_file(run / "text.loss_mask")
    (run / "mixture.yaml").write_text(yaml.safe_dump(mixture))

    assert pretrain(run).returncode == 0
    lines = read_metrics(run / "train" / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 4, 5]
    passed_over = [line for line in lines if line.get("event") == "nothing to learn"]
    assert [(line["step"], line["first_sample"]) for line in passed_over] == [(3, 16), (6, 40)]
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [3, 6]
    whole = CheckpointReader(run / "train" / "checkpoints")
    assert (whole.step, whole.updates, whole.consumed_samples) == (6, 4, 48)
    first_samples = dict(whole.index["spikes"]["first_samples"])
    assert first_samples == {step: 8 * (step - 1) for step in range(1, 7)}, "a rollback may begin with any of them"

    for overrides in (("stop_after_step=3",), ()):
        assert pretrain(run, f"output={run / 'parts'}", *overrides).returncode == 0
    parts = CheckpointReader(run / "parts" / "checkpoints")
    assert parts.step == 6
    for name in whole.names():
        for state in STATES:
            assert torch.equal(parts.tensor(name, state), whole.tensor(name, state)), f"{state} of {name}"
