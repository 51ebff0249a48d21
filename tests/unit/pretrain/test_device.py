"""What a process asks of `torch.distributed` when it is alone."""

from __future__ import annotations

import psutil

from pretrain.device import group_alone


def test_a_model_more_takes_no_thread_more() -> None:
    first = group_alone()
    before = psutil.Process().num_threads()
    assert all(group_alone() is first for _ in range(20))
    assert first.size() == 1
    assert psutil.Process().num_threads() == before
