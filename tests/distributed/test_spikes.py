"""A run recovers from a spike by itself, with the bits of a run that never saw the bad samples."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.checkpoint.layout import STATES, complete_checkpoints
from pretrain.checkpoint.read import CheckpointReader
from pretrain.monitor.metrics import CLOCKED, read_metrics
from pretrain.spikes.ledger import read_ledger
from tests.distributed import spike_cases
from tests.distributed.processes import run_processes, start_processes
from tests.distributed.spike_cases import BATCH, spike_config, write_mixture

POISONED = (30 * BATCH, 40 * BATCH)  # steps 31 to 40
SKIPPED = (25 * BATCH, 41 * BATCH)  # 16 batches from 5 before the onset
FOUR = {"parallel__pipeline": 2, "parallel__data": 2}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixture(tmp_path_factory.mktemp("data") / "tokens", POISONED)


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory, mixture: Path) -> Path:
    """A run of four processes that met the poisoned samples unprepared."""
    output = tmp_path_factory.mktemp("mended")
    run_processes(4, spike_cases.run_training, spike_config(output, mixture, **FOUR))
    return output


def steps_of(output: Path, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
    lines = [line for line in read_metrics(output / file) if line["kind"] == "train"]
    return [{key: value for key, value in line.items() if key not in CLOCKED} for line in lines]


def told(output: Path) -> list[Any]:
    return [entry.model_copy(update={"time": ""}) for entry in read_ledger(output / "spikes.jsonl")]


def assert_same_end(ours: Path, reference: Path, steps: int = 50) -> None:
    ours_at_end, reference_at_end = (CheckpointReader(path / "checkpoints") for path in (ours, reference))
    assert ours_at_end.step == reference_at_end.step == steps
    assert ours_at_end.updates == reference_at_end.updates
    for name in reference_at_end.names():
        assert ours_at_end.states(name) == reference_at_end.states(name)
        for state in reference_at_end.states(name):
            assert torch.equal(ours_at_end.tensor(name, state), reference_at_end.tensor(name, state)), f"{state} {name}"


def test_it_ends_as_if_it_had_never_seen_the_range(tmp_path: Path, mixture: Path, mended: Path) -> None:
    rollback, healed = told(mended)
    assert (rollback.kind, rollback.onset, rollback.step, rollback.to_step) == ("rollback", 31, 33, 25)
    assert rollback.skipped == SKIPPED
    assert (healed.kind, healed.onset, healed.step) == ("mended", 31, 47)

    told_before = spike_config(tmp_path / "told", mixture, data__skipped_samples=[SKIPPED], **FOUR)
    run_processes(4, spike_cases.run_training, told_before)
    assert told(tmp_path / "told") == []
    assert_same_end(mended, tmp_path / "told")
    assert steps_of(mended) == steps_of(tmp_path / "told")
    # The detector has also forgotten the abandoned branch.
    ours, reference = (CheckpointReader(path / "checkpoints").index["spikes"] for path in (mended, tmp_path / "told"))
    assert ours["detector"] == reference["detector"]

    unwatched = spike_config(tmp_path / "unwatched", mixture, spikes__enabled=False, **FOUR)
    run_processes(4, spike_cases.run_training, unwatched)
    with pytest.raises(AssertionError):  # so that the comparison above can fail
        assert_same_end(mended, tmp_path / "unwatched")


def test_the_abandoned_branch_is_kept_apart(mended: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert [line["step"] for line in steps_of(mended)] == list(range(1, 51))
    abandoned = steps_of(mended, "metrics.abandoned.jsonl")
    assert [line["step"] for line in abandoned] == list(range(26, 34))
    assert {line["branch"] for line in abandoned} == {"abandoned-01"}
    (event,) = [line for line in read_metrics(mended / "metrics.jsonl") if line.get("event") == "rolled back"]
    assert (event["step"], event["from_step"], event["onset"]) == (25, 33, 31)
    assert event["skipped"] == list(SKIPPED)

    for folder, lines in (("tensorboard", steps_of(mended)), ("tensorboard/abandoned-01", abandoned)):
        board = EventAccumulator(str(mended / folder))
        board.Reload()
        shown = [(scalar.step, scalar.value) for scalar in board.Scalars("train/loss")]
        assert shown == [(line["step"], pytest.approx(line["loss"])) for line in lines]

    checkpoints = mended / "checkpoints"
    assert [path.name for path in (checkpoints / "abandoned-01").iterdir()] == ["step-00000030"]
    assert len(complete_checkpoints(checkpoints)) == 11  # 0, 5, … 50, that of step 30 written anew


def in_new_branch(output: Path, step: int) -> bool:
    """Whether the run has been rolled back and has done `step` steps since."""
    if not (output / "metrics.jsonl").is_file():
        return False
    lines = read_metrics(output / "metrics.jsonl")
    branches = [i for i, line in enumerate(lines) if line.get("event") == "rolled back"]
    return bool(branches) and any(line["kind"] == "train" and line["step"] >= step for line in lines[branches[-1] :])


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(lambda output: bool(told(output)), id="as soon as the ledger tells of it"),
        pytest.param(lambda output: in_new_branch(output, 27), id="before the next checkpoint"),
        pytest.param(lambda output: in_new_branch(output, 33), id="after it"),
    ],
)
def test_killed_after_the_rollback_and_resumed_elsewhere(
    tmp_path: Path, mixture: Path, mended: Path, moment: Callable[[Path], bool]
) -> None:
    """SIGKILL to all ranks; then half as many processes, along another axis."""
    config = spike_config(tmp_path, mixture, **FOUR)
    processes, _ = start_processes(4, str(tmp_path / "store"), spike_cases.run_training, config)
    while not moment(tmp_path):
        assert all(process.is_alive() for process in processes)
        time.sleep(0.001)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    assert not (tmp_path / "checkpoints" / "step-00000050").exists()
    elsewhere = spike_config(tmp_path, mixture, parallel__tensor=2)
    run_processes(2, spike_cases.run_training, elsewhere)
    assert told(tmp_path) == told(mended)
    ours, reference = steps_of(tmp_path), steps_of(mended)
    assert [line["first_sample"] for line in ours] == [line["first_sample"] for line in reference]
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in reference], rel=0.02)


@pytest.mark.parametrize("changes", [{"batch__micro_batch_size": 1}, {"batch__micro_batch_size": 8}], ids=str)
def test_gradient_accumulation_does_not_change_what_is_skipped(
    tmp_path: Path, mixture: Path, mended: Path, changes: dict[str, int]
) -> None:
    run_processes(1, spike_cases.run_training, spike_config(tmp_path, mixture, **changes))
    assert [(entry.kind, entry.onset, entry.to_step, entry.skipped) for entry in told(tmp_path)] == [
        (entry.kind, entry.onset, entry.to_step, entry.skipped) for entry in told(mended)
    ]
    assert [line["first_sample"] for line in steps_of(tmp_path)] == [line["first_sample"] for line in steps_of(mended)]


RAMP = {"start": 4, "increment": 2, "samples": 240}


def test_a_growing_batch_does_not_change_what_is_skipped(tmp_path: Path, mixture: Path) -> None:
    """Steps of 4 samples up to the 120th, of 6 up to the 240th, then of 8: the skipped range begins among the ones and
    ends among the others. It ends with the bits of a run that was told; and with smaller micro-batches on two
    processes, stopped after the rollback and resumed on one, it skips the same."""
    growing = {"batch__ramp_up": RAMP, "schedule__total_steps": 75}
    met, told_before = (
        spike_config(tmp_path / "met", mixture, **growing),
        spike_config(tmp_path / "told", mixture, data__skipped_samples=[(210, 338)], **growing),
    )
    run_processes(1, spike_cases.run_training, met)
    rollback, *_ = told(tmp_path / "met")
    assert (rollback.kind, rollback.skipped) == ("rollback", (210, 338))
    run_processes(1, spike_cases.run_training, told_before)
    assert told(tmp_path / "told") == []
    assert_same_end(tmp_path / "met", tmp_path / "told", 75)
    assert steps_of(tmp_path / "met") == steps_of(tmp_path / "told")
    sizes = [line["global_batch_size"] for line in steps_of(tmp_path / "met")]
    assert sizes == sorted(sizes) and set(sizes) == {4, 6, 8}

    divided = spike_config(tmp_path / "divided", mixture, batch__micro_batch_size=1, parallel__data=2, **growing)
    calls = rollback.step + 3  # steps before the rollback are calls too
    with pytest.raises(RuntimeError, match="killed"):
        run_processes(2, spike_cases.run_training, divided, "killed", calls)
    run_processes(1, spike_cases.run_training, spike_config(tmp_path / "divided", mixture, **growing))
    assert [entry.skipped for entry in told(tmp_path / "divided")] == [
        entry.skipped for entry in told(tmp_path / "met")
    ]
    for key in ("first_sample", "consumed_samples", "global_batch_size"):
        ours, reference = ([line[key] for line in steps_of(tmp_path / name)] for name in ("divided", "met"))
        assert ours == reference, key


def test_another_batch_size_skips_the_same_samples(tmp_path: Path, mixture: Path) -> None:
    """Resumed from the checkpoint after the rollback with batches of 16 instead of 8: one step of a ramp."""
    with pytest.raises(RuntimeError, match="killed"):
        run_processes(1, spike_cases.run_training, spike_config(tmp_path, mixture), "killed", 34)
    run_processes(1, spike_cases.run_training, spike_config(tmp_path, mixture, batch__global_batch_size=16))
    seen = [line["first_sample"] for line in steps_of(tmp_path)]
    assert seen[:25] == [BATCH * i for i in range(25)]
    assert seen[25:] == [SKIPPED[1] + 16 * i for i in range(25)]


def test_a_transient_spike_costs_nothing(tmp_path: Path) -> None:
    """One poisoned batch: recorded, and otherwise nothing differs from an unwatched run."""
    mixture = write_mixture(tmp_path / "tokens", (30 * BATCH, 31 * BATCH))
    watched, unwatched = (
        spike_config(tmp_path / name, mixture, spikes__enabled=name == "watched") for name in ("watched", "unwatched")
    )
    for config in (watched, unwatched):
        run_processes(1, spike_cases.run_training, config)
    (entry,) = told(tmp_path / "watched")
    assert (entry.kind, entry.onset) == ("transient", 31)
    assert entry.peak > 3
    assert_same_end(tmp_path / "watched", tmp_path / "unwatched")
    assert steps_of(tmp_path / "watched") == steps_of(tmp_path / "unwatched")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_its_update_can_be_dropped(tmp_path: Path, precision: str) -> None:
    mixture = write_mixture(tmp_path / "tokens", (30 * BATCH, 31 * BATCH))
    changes = {"spikes__transient": "drop", "spikes__detector__minimum_norm_rise": 1.5, "checkpoint__every_steps": 1}
    config = spike_config(tmp_path / "run", mixture, precision=precision, stop_after_step=32, **changes)
    run_processes(2, spike_cases.run_training, config)
    assert [line["step"] for line in steps_of(tmp_path / "run") if line.get("dropped")] == [31]
    before, dropped, after = (
        CheckpointReader(tmp_path / "run" / "checkpoints" / f"step-000000{step}") for step in (30, 31, 32)
    )
    assert (before.updates, dropped.updates, after.updates) == (30, 30, 31)
    for name in before.names():
        for state in STATES:
            assert torch.equal(dropped.tensor(name, state), before.tensor(name, state)), f"{state} {name}"
        assert not torch.equal(after.tensor(name), before.tensor(name))


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_not_a_number_never_reaches_the_weights(tmp_path: Path, precision: str) -> None:
    """One step yields NaN: its update is dropped, and a resume knows that AdamW has done one update fewer."""
    mixture = write_mixture(tmp_path / "tokens", (0, 1))
    config = spike_config(tmp_path / "run", mixture, precision=precision, batch__micro_batch_size=8)
    run_processes(1, spike_cases.run_training, config, "one NaN", 32)
    (entry,) = told(tmp_path / "run")
    assert (entry.kind, entry.onset, entry.peak) == ("transient", 32, None)
    (line,) = [line for line in steps_of(tmp_path / "run") if line.get("dropped")]
    assert (line["step"], line["loss"], line["gradient_norm"]) == (32, "nan", "inf")
    end = CheckpointReader(tmp_path / "run" / "checkpoints")
    assert (end.step, end.updates) == (50, 49)
    assert all(torch.isfinite(end.tensor(name, state)).all() for name in end.names() for state in STATES)

    parts = config.model_copy(update={"output": tmp_path / "parts"})
    run_processes(1, spike_cases.run_training, parts.model_copy(update={"stop_after_step": 38}), "one NaN", 32)
    run_processes(1, spike_cases.run_training, parts)
    assert_same_end(tmp_path / "parts", tmp_path / "run")


def test_what_cannot_be_mended_stops_with_a_report(tmp_path: Path) -> None:
    """NaN from the 31st step on, whatever is skipped: back, back and skip more, back and a lower rate, stop."""
    mixture = write_mixture(tmp_path / "tokens", (0, 1))
    config = spike_config(tmp_path / "run", mixture, batch__micro_batch_size=4)
    result, _ = run_processes(2, spike_cases.run_training, config, "NaN", 31)
    assert "the loss has spiked since step" in result["error"] and "docs/on_call.md" in result["error"]
    entries = told(tmp_path / "run")
    assert [entry.kind for entry in entries] == ["rollback", "rollback", "rollback", "stop"]
    assert [entry.learning_rate_factor for entry in entries[:3]] == [None, None, 0.5]
    starts = [entry.skipped for entry in entries[:3]]
    assert [stop - start for start, stop in starts] == [16 * BATCH, 24 * BATCH, 24 * BATCH]
    # the weights in every checkpoint that is left are numbers
    end = CheckpointReader(tmp_path / "run" / "checkpoints")
    assert all(torch.isfinite(end.tensor(name, state)).all() for name in end.names() for state in STATES)


def test_a_damaged_checkpoint_is_not_gone_back_to(tmp_path: Path, mixture: Path) -> None:
    """Each rank scans its part of the files; all ranks act on what the second rank finds."""
    run_processes(2, spike_cases.run_training, spike_config(tmp_path, mixture, stop_after_step=28))
    file = tmp_path / "checkpoints" / "step-00000025" / "rank-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    run_processes(2, spike_cases.run_training, spike_config(tmp_path, mixture))
    rollback, *_ = told(tmp_path)
    assert (rollback.kind, rollback.to_step, rollback.skipped) == ("rollback", 20, SKIPPED)


def test_ranks_that_disagree_are_found(tmp_path: Path, mixture: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ranks \[1\] have seen another loss or gradient norm than rank 0"):
        run_processes(2, spike_cases.run_training, spike_config(tmp_path, mixture), "ranks disagree")


def test_a_range_that_was_trained_on_cannot_be_skipped_any_more(tmp_path: Path, mixture: Path) -> None:
    run_processes(1, spike_cases.run_training, spike_config(tmp_path, mixture, stop_after_step=10))
    with pytest.raises(
        RuntimeError, match=r"of the 80 samples that it was trained on, 16 of \[64, 99\) is skipped now"
    ):
        run_processes(1, spike_cases.run_training, spike_config(tmp_path, mixture, data__skipped_samples=[(64, 99)]))
    ahead = spike_config(tmp_path, mixture, data__skipped_samples=[(80, 96)], stop_after_step=12)
    run_processes(1, spike_cases.run_training, ahead)
    assert [line["first_sample"] for line in steps_of(tmp_path)][-2:] == [96, 104]
    with pytest.raises(RuntimeError, match=r"16 of \[80, 96\) was skipped and is not now"):
        run_processes(1, spike_cases.run_training, spike_config(tmp_path, mixture))


def test_the_skipped_samples_are_written_out(mended: Path) -> None:
    """Random tokens among counting ones: the pairs never repeat, which the first look says."""
    folder = mended / "spikes" / "abandoned-01"
    look = json.loads((folder / "first_look.json").read_text())
    assert (look["samples"], look["skipped"]) == ([240, 264], list(SKIPPED))
    assert any(sentence.startswith("distinct tokens share: ") for sentence in look["remarkable"]), look["remarkable"]
    text = (folder / "samples.txt").read_text()
    assert text.count("\nsample ") == SKIPPED[1] - SKIPPED[0]
    assert text.count("(suspicious)") == 3 * BATCH
    assert "step 33: rollback" in text
