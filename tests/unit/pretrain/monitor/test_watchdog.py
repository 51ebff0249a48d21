"""Who is named, and the report's contents; the whole course of a hang is in tests/distributed/test_hang.py."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from pretrain.config import HangConfig
from pretrain.monitor import watchdog
from pretrain.monitor.watchdog import Frame, RankState, culprits, hang_report, read_states
from pretrain.train import COLLECTIVE_MARGIN_SECONDS

STEP = Frame("pretrain/loop.py", 90, "train_loop")
REDUCE = Frame("torch/distributed/distributed_c10d.py", 2800, "all_reduce")
WRAPPER = Frame("torch/distributed/c10d_logger.py", 81, "wrapper")
READ = Frame("pretrain/data/loader.py", 230, "read")


def state(rank: int, *frames: Frame, step: int = 7, seconds: float = 61.0) -> RankState:
    return RankState(rank, f"n{rank // 2}", 100 + rank, "training", step, seconds, (STEP, *frames))


def test_who_waits_for_nobody_is_the_culprit() -> None:
    ranks = {0: state(0, WRAPPER, REDUCE), 1: state(1, READ), 2: state(2, REDUCE), 3: state(3, REDUCE)}
    assert culprits(ranks, 4) == {1: "is not waiting for other ranks, while others are waiting"}


def test_who_does_not_answer_is_the_culprit_whatever_the_others_do() -> None:
    ranks = {0: state(0, REDUCE), 1: state(1, READ), 3: state(3, REDUCE)}
    assert list(culprits(ranks, 4)) == [2]


def test_who_is_behind_is_the_culprit_when_all_wait() -> None:
    ranks = {rank: state(rank, REDUCE, step=6 if rank == 3 else 7) for rank in range(4)}
    assert culprits(ranks, 4) == {3: "is still at step 6, others are ahead"}


def test_nobody_is_named_when_all_stand_alike() -> None:
    ranks = {rank: state(rank, REDUCE) for rank in range(4)}
    assert culprits(ranks, 4) == {}
    assert "points to the network or the file system" in hang_report(ranks, ["n0", "n0", "n1", "n1"])


def test_a_wait_deep_below_is_no_wait() -> None:
    deep = [Frame("pretrain/model/mlp.py", line, "forward") for line in range(6)]
    assert not state(0, REDUCE, *deep).waits


def test_the_report_groups_ranks_and_puts_the_odd_one_first() -> None:
    ranks = {0: state(0, REDUCE), 1: state(1, READ, seconds=60.0), 2: state(2, REDUCE), 3: state(3, REDUCE)}
    text = hang_report(ranks, ["n0", "n0", "n1", "n1"])
    assert "training, step 7: no sign of life for 61 s (monitor.hang.training_seconds)" in text
    assert "culprit: rank 1 on n0 is not waiting for other ranks" in text
    assert "ranks 0, 2, 3: training, step 7, waiting for others\n" in text
    assert text.index("rank 1: training") < text.index("ranks 0, 2, 3")
    assert "  read (pretrain/data/loader.py:230)" in text


# Simulated stacks of runs over NCCL, whose collectives return at once: the file and the function of each frame.
TRAIN = ("pretrain/loop.py train_loop", "pretrain/loop.py train_step", "pretrain/engine/engine.py train_step")
SCHEDULE = (*TRAIN, "deepspeed/runtime/pipe/engine.py train_batch", "deepspeed/runtime/pipe/engine.py _exec_schedule")
UPDATE = (
    *SCHEDULE,
    "deepspeed/runtime/pipe/engine.py _exec_optimizer_step",
    "deepspeed/runtime/engine.py _take_model_step",
    "pretrain/engine/engine.py hooked",
    "deepspeed/runtime/bf16_optimizer.py step",
)
FORWARD = (
    *SCHEDULE,
    "deepspeed/runtime/pipe/engine.py _exec_forward_pass",
    "torch/nn/modules/module.py _call_impl",
    "pretrain/model/block.py forward",
    "pretrain/model/mlp.py forward",
)
WAITING = {
    "for the numbers of the step": TRAIN,
    "for the norm": (*UPDATE, "deepspeed/runtime/utils.py is_invalid_grad_norm"),
    "for the factor of the clipping": (*UPDATE, "deepspeed/runtime/utils.py clip_tensors_by_global_norm"),
    "for tokens on the device": (*SCHEDULE, "deepspeed/runtime/pipe/engine.py _exec_load_micro_batch"),
    "for the loss of an evaluation": ("pretrain/loop.py train_loop", "pretrain/evaluation/held_out.py evaluate",
                                      "pretrain/engine/engine.py evaluate"),
    "for the scores of tasks": ("pretrain/loop.py train_loop", "pretrain/evaluation/tasks.py evaluate",
                                "pretrain/engine/engine.py score"),
    "for what is scored": ("pretrain/evaluation/tasks.py evaluate", "pretrain/engine/engine.py score", *SCHEDULE,
                           "pretrain/engine/engine.py _row_scores", "pretrain/model/scores.py row_scores"),
    "for weights to save": ("pretrain/loop.py save", "pretrain/checkpoint/save.py save",
                            "pretrain/checkpoint/save.py _share_of"),
    "for the passes' clock": ("pretrain/loop.py train_loop", "pretrain/monitor/stragglers.py take",
                              "torch/cuda/__init__.py synchronize"),
}  # fmt: skip
"""Where the host of a waiting rank needs something of its GPU."""
QUEUE_IS_FULL = {
    "in a forward pass": FORWARD,
    "in a backward pass": (*SCHEDULE, "torch/_tensor.py backward", "torch/autograd/graph.py _engine_run_backward"),
    "in a compiled block": (
        *SCHEDULE,
        "torch/_inductor/output_code.py __call__",
        "/tmp/torchinductor_u/c/ab/cab.py call",
    ),
}
"""Where the host of a waiting rank can stop because its GPU takes no more work: anywhere."""
PREFETCH = ("pretrain/data/prefetch.py prefetch", "queue.py get", "threading.py wait")
CULPRITS = {
    "the loader": (*SCHEDULE, "deepspeed/runtime/pipe/engine.py _exec_load_micro_batch",
                   "deepspeed/runtime/pipe/engine.py _next_batch", *PREFETCH,
                   "pretrain/data/prefetch.py make", "pretrain/data/loader.py read"),
    "a save": ("pretrain/loop.py train_loop", "pretrain/checkpoint/save.py wait", "threading.py join",
               "pretrain/checkpoint/save.py _write", "pretrain/checkpoint/save.py _write_rank_file",
               "safetensors/torch.py save_file"),
    "an evaluation": ("pretrain/loop.py train_loop", "pretrain/evaluation/held_out.py evaluate",
                      "pretrain/engine/engine.py evaluate", "deepspeed/runtime/pipe/engine.py _exec_load_micro_batch",
                      "deepspeed/runtime/pipe/engine.py _next_batch", "pretrain/data/loader.py read"),
    "a compilation": (*FORWARD, "torch/_dynamo/convert_frame.py __call__", "torch/_inductor/compile_fx.py compile_fx",
                      "torch/_inductor/async_compile.py wait", "concurrent/futures/_base.py result",
                      "threading.py wait"),
    "a dead loop": (*SCHEDULE, "pretrain/data/objective.py blank_sample"),
    "a dead loop in the step itself": TRAIN,
}  # fmt: skip
"""Stacks of a rank that keeps the others waiting; those of a worker's thread follow those of the main thread."""


def standing(rank: int, places: tuple[str, ...], has_busy_gpu: bool | None) -> RankState:
    frames = tuple(Frame(file, 1, function) for file, function in (place.split(" ") for place in places))
    return RankState(rank, f"n{rank // 2}", 100 + rank, "training", 7, 601.0, frames, has_busy_gpu)


@pytest.mark.parametrize("waiting", [*WAITING, *QUEUE_IS_FULL])
@pytest.mark.parametrize("culprit", CULPRITS)
def test_over_nccl_the_rank_with_an_idle_gpu_is_the_culprit(culprit: str, waiting: str) -> None:
    places = (WAITING | QUEUE_IS_FULL)[waiting]
    ranks = {rank: standing(rank, places, True) for rank in range(4)}
    ranks[2] = standing(2, CULPRITS[culprit], False)
    assert list(culprits(ranks, 4)) == [2]


@pytest.mark.parametrize("waiting", WAITING)
@pytest.mark.parametrize("culprit", list(CULPRITS)[:-1])
def test_gpus_that_do_not_answer_are_judged_by_their_stacks(culprit: str, waiting: str) -> None:
    """All but two kinds: a dead loop in the very function that waits, and a queue that is full."""
    ranks = {rank: standing(rank, WAITING[waiting], None) for rank in range(4)}
    ranks[2] = standing(2, CULPRITS[culprit], None)
    assert list(culprits(ranks, 4)) == [2]


def test_nobody_is_named_when_all_gpus_wait() -> None:
    """As when the network between them is down."""
    assert culprits({rank: standing(rank, TRAIN, True) for rank in range(4)}, 4) == {}


def test_without_gpus_a_step_that_takes_no_end_is_no_wait() -> None:
    ranks = {rank: state(rank, REDUCE) for rank in range(4)}
    ranks[1] = standing(1, TRAIN, False)
    assert list(culprits(ranks, 4)) == [1]


def test_the_state_of_the_gpu_is_written_and_reported(tmp_path: Path) -> None:
    for rank in range(2):
        facts = asdict(standing(rank, TRAIN, rank == 0))
        facts["stacks"] = {"main": facts.pop("frames")}
        (tmp_path / f"rank-{rank:05d}.json").write_text(json.dumps(facts))
    ranks = read_states(tmp_path)
    assert [ranks[rank].has_busy_gpu for rank in range(2)] == [True, False]
    text = hang_report(ranks, ["n0", "n0"])
    assert "culprit: rank 1 on n0" in text
    assert "rank 0: training, step 7, waiting for others, with a busy GPU" in text


def test_the_watchdog_reports_before_collectives_time_out() -> None:
    """Whose timeout is that much longer than the longest limit."""
    slowest = max(HangConfig().limits.values())
    report = watchdog._POLL_SECONDS + watchdog._GPU_ANSWER_SECONDS + 2 * watchdog._grace_seconds(slowest)
    assert report < COLLECTIVE_MARGIN_SECONDS
