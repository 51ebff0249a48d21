"""One rank's signal stops all ranks at the same step; a slow node and a faulty one are named."""

from __future__ import annotations

from pathlib import Path

import torch

from pretrain.checkpoint.layout import STATES
from pretrain.checkpoint.read import CheckpointReader
from pretrain.launch.exit_codes import ExitCode
from pretrain.monitor.metrics import read_metrics
from tests.distributed import watch_cases
from tests.distributed.processes import run_processes
from tests.small_run import write_small_run

SHAPE = ("parallel.pipeline=2", "checkpoint.every_steps=6")


def test_a_signal_to_one_rank_stops_all_and_the_same_command_goes_on(tmp_path: Path) -> None:
    weights = {}
    for name, number in (("stopped", watch_cases.REQUEUE_SIGNAL), ("undisturbed", watch_cases.NO_SIGNAL)):
        (tmp_path / name).mkdir()
        config = str(write_small_run(tmp_path / name))
        codes = run_processes(2, watch_cases.signalled, config, SHAPE, number)
        checkpoints = tmp_path / name / "train" / "checkpoints"
        if number:
            assert codes == [ExitCode.REQUEUE] * 2
            assert CheckpointReader(checkpoints).step == 3  # the step that it was in is finished
            codes = run_processes(2, watch_cases.signalled, config, SHAPE, watch_cases.NO_SIGNAL)
        assert codes == [ExitCode.DONE] * 2
        weights[name] = CheckpointReader(checkpoints)
    ours, reference = weights["stopped"], weights["undisturbed"]
    assert ours.step == reference.step == 6
    for name in reference.names():
        for state in STATES:
            assert torch.equal(ours.tensor(name, state), reference.tensor(name, state)), f"{state} of {name}"


def test_a_slow_node_is_named(tmp_path: Path) -> None:
    config = write_small_run(tmp_path)
    settings = ("schedule.total_steps=4", "evaluation.every_steps=4", "monitor.stragglers_every_steps=2")
    # By half a second a pass: a busy machine makes either rank slower by less.
    run_processes(2, watch_cases.slow_node, str(config), (*settings, "monitor.straggler_share=0.5"))
    events = [line for line in read_metrics(tmp_path / "train" / "metrics.jsonl") if line["kind"] == "event"]
    paces = [line for line in events if line["event"] == "pass seconds"]
    assert [line["step"] for line in paces] == [2, 4] and paces[0]["nodes"] == ["n0", "n1"]
    (named,) = [line for line in events if line["event"] == "straggler"]
    assert named["step"] == 4 and named["nodes"] == ["n1"] and named["ranks"] == [1] and named["ratio"] > 1.5


def test_a_node_without_the_data_is_told_from_wrong_settings(tmp_path: Path) -> None:
    config = str(write_small_run(tmp_path))
    assert run_processes(2, watch_cases.blind_node, config, (1,)) == [("node", ("n1",))] * 2
    assert run_processes(2, watch_cases.blind_node, config, (0, 1)) == [("settings", ())] * 2
