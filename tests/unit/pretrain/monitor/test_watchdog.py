"""Who is named, and what the report says; that it all happens is in tests/distributed/test_hang.py."""

from __future__ import annotations

from pretrain.monitor.watchdog import Frame, RankState, culprits, hang_report

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
