"""A resumed run equals an uninterrupted one; a checkpoint is complete or refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pretrain.checkpoint.layout import STATES, CheckpointError, step_folder
from pretrain.checkpoint.read import BY_TOKEN, CheckpointReader
from pretrain.checkpoint.save import superseded
from pretrain.checkpoint.single import load_single_process_model
from pretrain.families import llama, mapping
from pretrain.model.partition import Partition
from pretrain.topology import Topology
from tests.distributed import cases
from tests.distributed.processes import run_processes
from tools.inspect_checkpoint import main as inspect_checkpoint
from tools.reshape import main as reshape

EIGHT = Topology(pipe=2, data=2, tensor=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after two steps of tensor 2 × pipeline 2 × data 2."""
    folder = tmp_path_factory.mktemp("run")
    run_processes(8, cases.train_in_parts, cases.tiny_config(precision="bf16"), EIGHT, str(folder), 0, 2)
    return folder / "step-00000002"


def assert_same_checkpoint(ours: CheckpointReader, reference: CheckpointReader) -> None:
    assert ours.names() == reference.names()
    for name in reference.names():
        for state in STATES:
            assert torch.equal(ours.tensor(name, state), reference.tensor(name, state)), f"{state} of {name}"


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_ten_steps_are_five_and_five(tmp_path: Path, precision: str) -> None:
    config = cases.tiny_config(precision=precision)
    (whole, *_) = run_processes(8, cases.train_in_parts, config, EIGHT, str(tmp_path / "whole"), 0, 10)
    (first, *_) = run_processes(8, cases.train_in_parts, config, EIGHT, str(tmp_path / "parts"), 0, 5)
    (second, *_) = run_processes(8, cases.train_in_parts, config, EIGHT, str(tmp_path / "parts"), 5, 10)
    assert first["loss"] + second["loss"] == whole["loss"]
    assert_same_checkpoint(
        CheckpointReader(tmp_path / "parts" / "step-00000010"), CheckpointReader(tmp_path / "whole" / "step-00000010")
    )


def test_without_the_moments_the_resume_differs(tmp_path: Path) -> None:
    """The bit-exact test can fail: it does when AdamW's moments are dropped."""
    config = cases.tiny_config(precision="fp32")
    (whole, *_) = run_processes(1, cases.train_in_parts, config, Topology(1, 1, 1), str(tmp_path / "whole"), 0, 4)
    run_processes(1, cases.train_in_parts, config, Topology(1, 1, 1), str(tmp_path / "parts"), 0, 2)
    (second, *_) = run_processes(
        1, cases.train_in_parts, config, Topology(1, 1, 1), str(tmp_path / "parts"), 2, 4, "moments forgotten"
    )
    assert second["loss"][0] == whole["loss"][2]
    assert second["loss"][1:] != whole["loss"][3:]


@pytest.mark.parametrize("topology", [Topology(1, 1, 1), Topology(3, 1, 1), Topology(1, 2, 2)], ids=str)
def test_goes_on_under_another_topology(tmp_path: Path, checkpoint: Path, topology: Topology) -> None:
    config = cases.tiny_config(precision="bf16")
    for name in ("same", "other"):
        shutil.copytree(checkpoint.parent, tmp_path / name)
    (same, *_) = run_processes(8, cases.train_in_parts, config, EIGHT, str(tmp_path / "same"), 2, 4)
    (other, *_) = run_processes(
        topology.world_size, cases.train_in_parts, config, topology, str(tmp_path / "other"), 2, 4
    )
    for name, weight in same["restored"].items():
        np.testing.assert_array_equal(other["restored"][name], weight, err_msg=name)
    np.testing.assert_allclose(other["loss"], same["loss"], rtol=1e-3)


def test_reshaped_beforehand_is_resumed_the_same(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resharded to other tensor degrees and back: the same numbers, and a run that continues from either has the same
    bits."""
    reference = CheckpointReader(checkpoint)
    for number, (source, degree) in enumerate([(checkpoint, 4), (tmp_path / "0", 1), (tmp_path / "1", 2)]):
        out = str(tmp_path / str(number))
        assert reshape([str(source), out, "--tensor", str(degree), "--file-gb", "1e-5"]) == 0
        reshaped = CheckpointReader(Path(out))
        assert_same_checkpoint(reshaped, reference)
        assert reshaped.tensor_degree == degree and len(reshaped.index["files"]) > 4
        assert {key: value for key, value in reshaped.index.items() if key in SAME_WHEN_RESHAPED} == {
            key: reference.index[key] for key in SAME_WHEN_RESHAPED
        }
    assert "4 -> 1" in capsys.readouterr().out
    assert inspect_checkpoint([str(tmp_path / "0")]) == 0
    assert "tensor 2 × pipeline 2 × data 2; cut for tensor 4 since" in capsys.readouterr().out
    config, topology = cases.tiny_config(precision="bf16"), Topology(1, 2, 1)
    shutil.copytree(checkpoint.parent, tmp_path / "on the way")
    resumed = [
        run_processes(2, cases.train_in_parts, config, topology, str(tmp_path / name), 2, 4)[0]["loss"]
        for name in ("1", "on the way")
    ]
    assert resumed[0] == resumed[1]


SAME_WHEN_RESHAPED = ("step", "consumed_samples", "updates", "config", "parameters")


def test_what_cannot_be_reshaped_is_named(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = damaged_copy(checkpoint, tmp_path)
    for arguments, message in (
        ((checkpoint, tmp_path / "out", "--tensor", "3"), "parallel.tensor: 3 must divide model.attention_heads 4"),
        ((checkpoint, checkpoint.parent, "--tensor", "1"), "step-00000002: there already"),
        ((checkpoint, tmp_path / "out", "--tensor", "0"), "must be positive"),
    ):
        assert reshape([str(argument) for argument in arguments]) == 2
        assert message in capsys.readouterr().err
    with open(damaged / "rank-00003.safetensors", "r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    assert reshape([str(damaged), str(tmp_path / "out"), "--tensor", "1"]) == 2
    assert "rank-00003.safetensors: damaged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_any_stretch_of_any_shard(checkpoint: Path) -> None:
    """Read under every tensor degree, it equals a slice of the whole parameter."""
    reader, random = CheckpointReader(checkpoint), np.random.default_rng(5)
    dimensions = set()
    for name in reader.names():
        partition = reader.partition(name)
        if partition is None:
            continue
        dimensions.add((partition.dim, len(partition.blocks) > 1))
        for degree in (1, 3, 4):
            whole = reader.tensor(name)
            if name in BY_TOKEN:  # with the padding of another degree
                partition = Partition(0, (reader.shape(name)[0] + 3 * degree,))
                whole = torch.cat([whole, torch.zeros(3 * degree, whole.shape[1])])
            for rank in range(degree):
                shard = partition.shard(whole, rank, degree).reshape(-1)
                for start, stop in [(0, len(shard)), *np.sort(random.integers(0, len(shard), (10, 2))).tolist()]:
                    found = reader.shard_range(name, "weight", rank, degree, start, stop, partition)
                    if name in BY_TOKEN:  # the contents of the checkpoint's padding rows do not matter
                        first = sum(partition.sizes(other, degree)[0] for other in range(rank)) * whole.shape[1]
                        real = max(0, reader.shape(name)[0] * whole.shape[1] - first - start)
                        assert torch.equal(found[:real], shard[start:stop][:real])
                    else:
                        assert torch.equal(found, shard[start:stop])
    assert {(0, False), (0, True), (1, False)} <= dimensions


# Rounding in another order of sums, 20 steps long. fp32: measured 9e-8 on the worst loss between two processes.
CONTINUITY = {"fp32": 5e-6, "bf16": 1e-3}


def assert_continuous(folder: Path, written_by: Topology, goes_on: Topology, precision: str, fault: str = "") -> None:
    """The losses of 20 steps after a resume under another topology equal those of the uninterrupted run."""
    config, rate = cases.tiny_config(precision=precision), 1e-3

    def part(name: str, topology: Topology, first: int, last: int, fault: str = "") -> list[float]:
        arguments = (config, topology, str(folder / name), first, last, fault, rate)
        (result, *_) = run_processes(topology.world_size, cases.train_in_parts, *arguments)
        return list(result["loss"])

    uninterrupted = part("whole", written_by, 0, 25)
    interrupted = part("parts", written_by, 0, 5) + part("parts", goes_on, 5, 25, fault)
    assert interrupted[:5] == uninterrupted[:5]
    worst = max(abs(ours / reference - 1) for ours, reference in zip(interrupted, uninterrupted, strict=True))
    print(f"{written_by} to {goes_on}, {precision}: {worst:.1e}")
    assert worst < CONTINUITY[precision]


def test_twenty_steps_are_continuous_under_another_topology(tmp_path: Path) -> None:
    assert_continuous(tmp_path, Topology(1, 2, 1), Topology(2, 1, 1), "fp32")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "goes_on", [Topology(1, 1, 1), Topology(3, 1, 1), Topology(1, 2, 2), Topology(1, 4, 1)], ids=str
)
def test_twenty_steps_are_continuous_everywhere(tmp_path: Path, goes_on: Topology, precision: str) -> None:
    assert_continuous(tmp_path, EIGHT, goes_on, precision)


@pytest.mark.slow
def test_a_resume_that_forgets_is_not_continuous(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        assert_continuous(tmp_path, Topology(1, 2, 1), Topology(2, 1, 1), "fp32", "moments forgotten")


def test_every_rank_saves_its_share_once(checkpoint: Path) -> None:
    reader = CheckpointReader(checkpoint)
    stored = sum(stop - start for entry in reader.index["files"].values() for _, _, start, stop in entry["fragments"])
    assert stored == sum(np.prod(entry["shape"]) for entry in reader.index["parameters"].values())
    assert stored == mapping.parameter_count(cases.tiny_config().model) + 2 * (256 - 250) * 32  # padding rows


def test_logits_equal_transformers(checkpoint: Path) -> None:
    """The whole trained model against transformers' own LLaMA."""
    reader = CheckpointReader(checkpoint)
    config = cases.tiny_config().model
    theirs = LlamaForCausalLM(
        LlamaConfig(**llama.FORMAT.hugging_face_config(config, dtype="float32", end_of_document=1))
    ).eval()
    state = {}
    for name, weight in llama.FORMAT.places(config).items():
        state.update(mapping.to_hugging_face(name, weight, reader.tensor(name)))
    theirs.load_state_dict(state)
    tokens = torch.randint(0, config.vocabulary_size, (2, 40), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = theirs(tokens).logits
    torch.testing.assert_close(load_single_process_model(checkpoint)(tokens), expected, rtol=1e-5, atol=1e-5)


def damaged_copy(checkpoint: Path, folder: Path) -> Path:
    shutil.copytree(checkpoint, folder / checkpoint.name)
    return folder / checkpoint.name


def test_missing_file_is_named(tmp_path: Path, checkpoint: Path) -> None:
    copy = damaged_copy(checkpoint, tmp_path)
    (copy / "rank-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"rank-00003\.safetensors: missing; .* 8 rank files .* restore it"):
        CheckpointReader(copy)


def test_flipped_bit_is_found(tmp_path: Path, checkpoint: Path) -> None:
    copy = damaged_copy(checkpoint, tmp_path)
    file = copy / "rank-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"rank-00001\.safetensors: damaged: its SHA-256"):
        CheckpointReader(copy).verify()


def test_a_changed_index_is_found(tmp_path: Path, checkpoint: Path) -> None:
    """One digit of a counter: still JSON, and still a file of the same size."""
    copy = damaged_copy(checkpoint, tmp_path)
    index = (copy / "checkpoint.json").read_text()
    assert '"consumed_samples": 16' in index
    (copy / "checkpoint.json").write_text(index.replace('"consumed_samples": 16', '"consumed_samples": 24'))
    with pytest.raises(
        CheckpointError, match=r"checkpoint\.json: damaged: its digest is not the recorded one; restore it"
    ):
        CheckpointReader(copy)


def test_truncated_file_is_found(tmp_path: Path, checkpoint: Path) -> None:
    copy = damaged_copy(checkpoint, tmp_path)
    file = copy / "rank-00001.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"rank-00001\.safetensors: 100 bytes where \d+ were written"):
        CheckpointReader(copy)


def test_the_newest_whole_one_is_taken_and_said(tmp_path: Path, checkpoint: Path) -> None:
    damaged_copy(checkpoint, tmp_path)
    newer = tmp_path / "step-00000004"
    shutil.copytree(checkpoint, newer)
    file = newer / "rank-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")  # of the second rank's part of the files
    ((step, notes), other) = run_processes(2, cases.newest_step, str(tmp_path))
    assert (step, notes) == other and step == 2
    (note,) = notes
    assert "passed over" in note and "step-00000004/rank-00001.safetensors: damaged" in note
    shutil.rmtree(tmp_path / "step-00000002")
    with pytest.raises(RuntimeError, match="no checkpoint is whole"):
        run_processes(2, cases.newest_step, str(tmp_path))


def test_which_checkpoints_are_let_go() -> None:
    newest_first = [step_folder(Path("x"), step) for step in (60, 50, 40, 30, 20, 10)]
    assert superseded(newest_first, None, None) == []
    assert superseded(newest_first, 2, None) == newest_first[2:]
    assert [folder.name[-2:] for folder in superseded(newest_first, 2, 20)] == ["30", "10"]


def test_unfinished_is_invisible(tmp_path: Path, checkpoint: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / ".unfinished-step-00000002")
    assert run_processes(1, cases.newest_step, str(tmp_path)) == [(None, [])]


def test_other_format_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    copy = damaged_copy(checkpoint, tmp_path)
    index = json.loads((copy / "checkpoint.json").read_text())
    (copy / "checkpoint.json").write_text(json.dumps({**index, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99, this version reads 1"):
        CheckpointReader(copy)


def test_inspect_shows_what_is_there(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_checkpoint([str(checkpoint), "--weights"]) == 0
    printed = capsys.readouterr().out
    assert "0 in the ledger; healthy" in printed and "samples skipped" in printed
    assert "tensor 2 × pipeline 2 × data 2" in printed and "embedding.weight" in printed and '"seed": 7' in printed
    copy = damaged_copy(checkpoint, tmp_path)
    (copy / "rank-00005.safetensors").unlink()
    assert inspect_checkpoint([str(copy)]) == 2
    assert "rank-00005.safetensors: missing" in capsys.readouterr().err
