from __future__ import annotations

import pytest
import torch

from pretrain.monitor import replicas
from pretrain.monitor.replicas import Replica, find_drift, fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_single_bit_counts(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "CHUNK_ELEMENTS", 10)
    tensor = torch.randn(5, 7).to(dtype)
    original = fingerprint(tensor)
    assert fingerprint(tensor.clone()) == original
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    for element in range(35):
        for bit in (0, 7, 15):
            changed = tensor.clone()
            changed.view(bits).view(-1)[element] ^= 1 << bit if bit < 15 else -(1 << 15)
            assert fingerprint(changed) != original


def test_order_counts() -> None:
    assert fingerprint(torch.tensor([1.0, 2.0])) != fingerprint(torch.tensor([2.0, 1.0]))


def test_copies_are_compared_where_they_must_agree() -> None:
    agreeing = {
        0: [Replica("norm", None, 1), Replica("matrix", 0, 5)],
        1: [Replica("norm", None, 1), Replica("matrix", 1, 6)],
        2: [Replica("norm", None, 1), Replica("matrix", 0, 5)],
        3: [Replica("norm", None, 1), Replica("matrix", 1, 6)],
    }
    assert find_drift(agreeing) == []
    agreeing[2][0] = Replica("norm", None, 9)
    agreeing[3][1] = Replica("matrix", 1, 7)
    assert find_drift(agreeing) == ["norm: ranks 0, 1, 3 | 2", "matrix, shard of tensor rank 1: ranks 1 | 3"]
