"""Checkpoints of runs with frozen weights and adapters: what they hold, their base, resumes, reshapes and rollbacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pretrain.checkpoint.layout import INDEX_FILE, STATES, CheckpointError, write_index
from pretrain.checkpoint.read import CheckpointReader
from pretrain.checkpoint.single import load_single_process_model
from pretrain.checkpoint.whole import BASE, WholeWeights
from pretrain.config import ModelConfig
from pretrain.monitor.metrics import CLOCKED, read_metrics
from tests.distributed import cases, spike_cases
from tests.distributed.processes import run_processes
from tests.distributed.spike_cases import spike_config, write_mixture
from tests.distributed.test_spikes import POISONED, SKIPPED, assert_same_end, told
from tests.small_run import MODEL, write_small_run
from tests.system.test_pretrain import pretrain
from tests.unit.pretrain.families.small import InMemory
from tools.inspect_checkpoint import main as inspect_checkpoint
from tools.reshape import main as reshape
from tools.starting_checkpoint import write_starting_checkpoint

EIGHT = ("parallel.tensor=2", "parallel.pipeline=2", "parallel.sequence=true")
"""On eight processes."""


def write_base(folder: Path, model: dict[str, Any]) -> Path:
    config = ModelConfig.model_validate(model)
    weights = InMemory(config)
    origin = {"from": "a test", "special_tokens": {}, "generation_config": {}}
    write_starting_checkpoint(
        folder, config, weights.tensor, data_digest="none", origin=origin, tokenizer=None, title="base"
    )
    return folder


def prepare(folder: Path, **changes: Any) -> Path:
    """Token files, a base and a `train.yaml` with adapters and a trained embedding."""
    config = write_small_run(folder)
    base = write_base(folder / "base", MODEL)
    values = yaml.safe_load(config.read_text())
    values |= {
        "initial_weights": str(base),
        "adapter": {"rank": 2, "alpha": 4, "dropout": 0.1},
        "trainable": ["embedding"],
        "schedule": {"total_steps": 10, "warmup_steps": 2},
        "checkpoint": {"every_steps": 5},
        "spikes": {"enabled": False},
        **changes,
    }
    config.write_text(yaml.safe_dump(values))
    return config


def train(config: Path, processes: int, *overrides: str) -> None:
    run_processes(processes, cases.train_command, str(config), overrides)


def refused(config: Path, *overrides: str) -> str:
    with pytest.raises(RuntimeError) as caught:
        train(config, 1, *overrides)
    return str(caught.value).splitlines()[-1]


def losses(output: Path) -> list[dict[str, Any]]:
    lines = [line for line in read_metrics(output / "metrics.jsonl") if line["kind"] in ("train", "evaluation")]
    return [{key: value for key, value in line.items() if key not in CLOCKED} for line in lines]


def assert_same(ours: Path, reference: Path) -> None:
    one, other = CheckpointReader(ours), CheckpointReader(reference)
    one.verify()
    assert one.names() == other.names()
    for name in one.names():
        for state in STATES:
            assert torch.equal(one.tensor(name, state), other.tensor(name, state)), f"{state} of {name}"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of eight processes in bf16, with checkpoints of steps 5 and 10."""
    folder = tmp_path_factory.mktemp("tuned")
    train(prepare(folder), 8, *EIGHT)
    return folder


def copy_of(tuned: Path, folder: Path, *steps: int) -> Path:
    """The run and its base in another place, with some of its checkpoints; its `train.yaml`."""
    shutil.copytree(tuned, folder, dirs_exist_ok=True)
    for checkpoint in (folder / "train" / "checkpoints").glob("step-*"):
        if int(checkpoint.name[5:]) not in steps:
            shutil.rmtree(checkpoint)
    config = folder / "train.yaml"
    config.write_text(config.read_text().replace(str(tuned), str(folder)))
    return config


def test_it_holds_what_is_trained_and_names_its_base(tuned: Path) -> None:
    reader = CheckpointReader(tuned / "train" / "checkpoints")
    shapes = {name: reader.shape(name) for name in reader.names()}
    assert shapes.pop("embedding.weight") == (300, 32)
    assert len(shapes) == 2 * 4 * 2 and all(".lora." in name for name in shapes)
    stored = sum(entry["bytes"] for entry in reader.index["files"].values())
    numbers = 3 * sum(torch.Size(reader.index["parameters"][name]["shape"]).numel() for name in reader.names())
    assert 4 * numbers < stored < 4 * numbers + 60_000  # and headers
    base = CheckpointReader(tuned / "base")
    assert reader.index[BASE] == {"checkpoint": str(tuned / "base"), "digest": base.digest}


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_ten_steps_are_five_and_five(tuned: Path, tmp_path: Path, precision: str) -> None:
    whole = tuned
    if precision == "fp32":
        whole = tmp_path / "whole"
        whole.mkdir()
        train(prepare(whole, precision="fp32"), 8, *EIGHT)
    config = copy_of(whole, tmp_path / "parts", 5)
    train(config, 8, *EIGHT)
    parts = tmp_path / "parts" / "train"
    assert_same(parts / "checkpoints" / "step-00000010", whole / "train" / "checkpoints" / "step-00000010")
    assert losses(parts) == losses(whole / "train")
    for name in ("checkpoints/step-00000005", "checkpoints/step-00000010"):
        embedding = CheckpointReader(parts / name).tensor("embedding.weight")
        assert not torch.equal(embedding, CheckpointReader(tuned / "base").tensor("embedding.weight"))


@pytest.mark.parametrize(
    ("processes", "degrees"), [(1, ()), (2, ("parallel.tensor=2",)), (2, ("parallel.pipeline=2",))]
)
def test_goes_on_under_another_topology(tuned: Path, tmp_path: Path, processes: int, degrees: tuple[str, ...]) -> None:
    config = copy_of(tuned, tmp_path, 5)
    train(config, processes, *degrees)
    ours, reference = losses(tmp_path / "train"), losses(tuned / "train")
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in reference], rel=2e-3)


def test_reshaped_beforehand_it_is_the_same(tuned: Path, tmp_path: Path) -> None:
    config = copy_of(tuned, tmp_path, 5)
    checkpoints = tmp_path / "train" / "checkpoints"
    assert reshape([str(checkpoints), str(tmp_path / "one"), "--tensor", "1"]) == 0
    assert reshape([str(tmp_path / "one"), str(tmp_path / "two"), "--tensor", "2"]) == 0
    assert_same(tmp_path / "two", checkpoints)
    shutil.rmtree(checkpoints)
    shutil.move(tmp_path / "two", checkpoints)
    train(config, 8, *EIGHT)
    assert_same(checkpoints / "step-00000010", tuned / "train" / "checkpoints" / "step-00000010")


def test_the_whole_model_is_what_was_trained(tuned: Path, tmp_path: Path) -> None:
    """Merged and read whole, it has the loss that the run evaluated; the base alone has another one."""
    whole = WholeWeights(CheckpointReader(tuned / "train" / "checkpoints"))
    base = CheckpointReader(tuned / "base")
    assert whole.names() == base.names()
    name = "layers.1.mlp.down.weight"
    a, b = (whole.reader.tensor(f"layers.1.mlp.down.lora.{factor}") for factor in "ab")
    assert b.any()
    assert torch.equal(whole.tensor(name), base.tensor(name) + (b @ a) * 2.0)
    assert torch.equal(whole.tensor("final_norm.weight"), base.tensor("final_norm.weight"))
    tokens = torch.randint(3, 290, (2, 32), generator=torch.Generator().manual_seed(1))
    merged, plain = (load_single_process_model(path)(tokens) for path in (whole.path, tuned / "base"))
    assert (merged - plain).abs().max() > 1e-2


def test_a_run_starts_from_merged_weights(tuned: Path, tmp_path: Path) -> None:
    """All of it is trained then; and a second adapter beside a first one."""
    config = copy_of(tuned, tmp_path, 10)
    start = f"initial_weights={tmp_path / 'train' / 'checkpoints'}"
    short = ("schedule.total_steps=2", "schedule.warmup_steps=1", "optimizer.learning_rate=1e-30")
    done = pretrain(tmp_path, start, *short, "adapter=null", "trainable=null", f"output={tmp_path / 'full'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "with its adapters merged" in " ".join(done.stdout.split())
    ours = CheckpointReader(tmp_path / "full" / "checkpoints")
    merged = WholeWeights(CheckpointReader(tmp_path / "train" / "checkpoints"))
    assert BASE not in ours.index
    for name in merged.names():
        torch.testing.assert_close(ours.tensor(name), merged.tensor(name), rtol=1e-6, atol=1e-7, msg=name)

    train(config, 2, start, *short, f"output={tmp_path / 'second'}", "parallel.tensor=2", "precision=fp32")
    second = WholeWeights(CheckpointReader(tmp_path / "second" / "checkpoints"))
    assert second.base is not None and second.base.base is not None
    for name in merged.names():
        torch.testing.assert_close(second.tensor(name), merged.tensor(name), rtol=1e-6, atol=1e-7, msg=name)


def test_a_base_that_is_missing_or_another_one_is_named(tuned: Path, tmp_path: Path) -> None:
    config = copy_of(tuned, tmp_path, 5)
    index = json.loads((tmp_path / "train" / "checkpoints" / "step-00000005" / INDEX_FILE).read_text())
    index[BASE]["checkpoint"] = str(tmp_path / "base")  # as if the run had been here from the start
    write_index(tmp_path / "train" / "checkpoints" / "step-00000005", index)

    (tmp_path / "base").rename(tmp_path / "moved")
    message = refused(config)
    assert f"its frozen weights are those of {tmp_path / 'base'}, digest" in message
    assert f"{tmp_path / 'base' / INDEX_FILE}: missing" in message and "initial_weights=" in message
    with pytest.raises(CheckpointError, match=r"--base for a command"):
        WholeWeights(CheckpointReader(tmp_path / "train" / "checkpoints"))

    write_base(tmp_path / "base", {**MODEL, "initial_std": 0.03})
    message = refused(config)
    assert f"{tmp_path / 'base'}: another checkpoint: its digest is" in message

    moved = f"initial_weights={tmp_path / 'moved'}"
    train(config, 1, moved)
    reader = CheckpointReader(tmp_path / "train" / "checkpoints")
    assert reader.step == 10 and reader.index[BASE]["checkpoint"] == str(tmp_path / "moved")

    shutil.rmtree(tmp_path / "train" / "checkpoints" / "step-00000010")
    file = tmp_path / "moved" / "rank-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "rank-00000.safetensors: damaged: its SHA-256" in refused(config, moved)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("adapter.rank=3", "written with adapter.rank=2, now 3"),
        ("adapter.alpha=5", "written with adapter.alpha=4.0, now 5.0"),
        ("trainable=[embedding, head]", "written with trainable=['embedding'], now ['embedding', 'head']"),
        ("adapter=null", "written with adapter"),
    ],
)
def test_what_is_trained_stays(tuned: Path, tmp_path: Path, override: str, message: str) -> None:
    assert message in refused(copy_of(tuned, tmp_path, 5), override)


def test_inspect_names_the_base(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_checkpoint([str(tuned / "train" / "checkpoints")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"those of {tuned / 'base'}, digest" in printed and f"found at {tuned / 'base'}" in printed
    assert "rank 2, alpha 4" in printed and "trained share" in printed
    assert inspect_checkpoint([str(tuned / "base")]) == 0
    assert "frozen" not in capsys.readouterr().out


def test_a_rollback_leaves_frozen_weights_as_they_are(tmp_path: Path) -> None:
    """The run that meets poisoned samples ends with the bits of one that was told to skip them."""
    mixture = write_mixture(tmp_path / "tokens", POISONED)
    base = write_base(tmp_path / "base", spike_config(tmp_path, mixture).model.model_dump())
    partly = {"trainable": ["embedding", "layers", "head"], "initial_weights": str(base), "parallel__pipeline": 2}
    mended, before = tmp_path / "mended", tmp_path / "told"
    run_processes(2, spike_cases.run_training, spike_config(mended, mixture, **partly))
    rollback, *_ = told(mended)
    assert rollback.kind == "rollback"
    skipped = list(rollback.skipped)
    run_processes(2, spike_cases.run_training, spike_config(before, mixture, data__skipped_samples=[skipped], **partly))
    assert told(before) == []
    assert_same_end(mended, before)
    assert skipped[0] < SKIPPED[1]  # of the poisoned part
