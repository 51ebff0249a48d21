"""What differs in fp32: weights are their own masters, and norms are computed without large copies."""

from __future__ import annotations

import pytest
import torch

from pretrain.engine.deepspeed_patches import _part_norms
from pretrain.topology import Topology
from tests.distributed import cases
from tests.distributed.processes import run_processes


@pytest.mark.parametrize(("precision", "is_shared"), [("fp32", True), ("bf16", False)])
def test_masters_are_the_weights_themselves(precision: str, is_shared: bool) -> None:
    for found in run_processes(2, cases.shared_masters, precision, Topology(pipe=1, data=2, tensor=1)):
        assert found and set(found) == {is_shared}


@pytest.mark.parametrize("size", [1, 32768, 32769, 100_003])
def test_norms_of_parts_have_the_norm_of_the_whole(size: int) -> None:
    gradient = torch.randn(size, generator=torch.Generator().manual_seed(size))
    norms = _part_norms(gradient)
    assert norms.dtype == torch.float64 and len(norms) == -(-size // 32768)
    torch.testing.assert_close(torch.linalg.vector_norm(norms), torch.linalg.vector_norm(gradient.double()))
    gradient._zero_padding = True  # type: ignore[attr-defined]
    assert _part_norms(gradient)._zero_padding  # type: ignore[attr-defined]
    assert not hasattr(norms, "_zero_padding")
