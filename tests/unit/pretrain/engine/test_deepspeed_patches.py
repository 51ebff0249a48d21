"""The installed DeepSpeed still needs each patch, and with the patch it is right.

When a test here fails after an upgrade, DeepSpeed has changed what the patch is for: see whether the patch can go.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.engine import deepspeed_patches as patches
from pretrain.engine.library import BF16_Optimizer, DeepSpeedZeroOptimizer, deepspeed
from pretrain.topology import Topology
from tests.distributed import cases
from tests.distributed.processes import run_processes


def test_the_shared_memory_collective(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a compiler at hand, DeepSpeed builds the collective while it starts, and calls it without a group."""
    backend: Any = import_module("deepspeed.comm.torch")
    built = []
    builder = SimpleNamespace(
        NAME="deepspeed_shm_comm", load=lambda: built.append("it") or "collective", absolute_name=lambda: "collective"
    )
    monkeypatch.setattr(backend, "get_accelerator", lambda: SimpleNamespace(create_op_builder=lambda _: builder))
    monkeypatch.setitem(deepspeed.ops.__compatible_ops__, "deepspeed_shm_comm", True)
    assert backend.build_shm_op() == "collective" and built == ["it"]

    called = []
    monkeypatch.setattr(backend.torch.ops, "deepspeed", SimpleNamespace(inference_all_reduce_=called.append))
    monkeypatch.setattr(backend.torch.distributed, "get_world_size", lambda group: 2)
    tensor = torch.ones(1)
    started = SimpleNamespace(shm_vector_kernel_level=2)
    backend.TorchBackend.inference_all_reduce(started, tensor, op=None, group="half of the ranks")
    assert called == [tensor]  # the group is lost

    patches.disable_shared_memory_collective()
    assert backend.build_shm_op() is None and built == ["it"]


def test_the_gradient_of_the_head() -> None:
    """DeepSpeed's bf16 optimizer clears gradients in a hook on the outputs of the last stage, the head's weight among
    them, which may have its gradient by then: without `immediate_grad_update` it would have none, or one
    micro-batch's. fp32 says what is right."""
    (right,) = run_processes(1, cases.head_gradient, "fp32")
    (ours,) = run_processes(1, cases.head_gradient, "bf16")
    assert np.linalg.norm(ours - right) < 0.02 * np.linalg.norm(right)


def test_a_stage_without_weights_of_its_own() -> None:
    """All weights of the stage are copies of another stage's: nothing is left for the norm, which fails on nothing."""
    from deepspeed.runtime.utils import get_global_norm_of_tensors

    weight = torch.ones(2)
    weight.ds_pipe_replicated = True  # type: ignore[attr-defined]
    stage = SimpleNamespace(
        mpu=None,
        bf16_groups=[[weight]],
        optimizer=SimpleNamespace(param_groups=[{}]),
        fp32_groups_has_gradients=[[True]],
        fp32_groups_gradients=[[torch.ones(2)]],
        has_moe_layers=False,
    )
    stage.get_grads_for_norm = MethodType(BF16_Optimizer.get_grads_for_norm, stage)
    assert stage.get_grads_for_norm() == ([], {})
    with pytest.raises(RuntimeError, match="non-empty TensorList"):
        get_global_norm_of_tensors(stage.get_grads_for_norm()[0])

    patches.allow_stages_without_own_weights(stage)
    assert float(get_global_norm_of_tensors(stage.get_grads_for_norm()[0])) == 0.0
    (clipped,) = stage.get_grads_for_norm(for_clipping=True)
    assert torch.equal(clipped, torch.ones(2))
    weight.ds_pipe_replicated = False  # type: ignore[attr-defined]
    assert float(get_global_norm_of_tensors(stage.get_grads_for_norm()[0])) == pytest.approx(2**0.5)


class LargestDouble(TorchDispatchMode):
    """Number of elements of the largest fp64 tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        result = function(*arguments, **(settings or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            self.elements = max(self.elements, result.numel())
        return result


@contextmanager
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """What `get_grad_norm_direct` needs of an optimizer in a single process."""
    from deepspeed.runtime.zero import stage_1_and_2

    alone = SimpleNamespace(all_reduce=lambda tensor, op, group: None, ReduceOp=torch.distributed.ReduceOp)
    monkeypatch.setattr(stage_1_and_2, "dist", alone)
    optimizer = SimpleNamespace(
        dp_process_group=None,
        model_parallel_rank=0,
        device=torch.device("cpu"),
        _model_parallel_all_reduce=lambda tensor, op: None,
    )
    optimizer.get_grad_norm_direct = MethodType(DeepSpeedZeroOptimizer.get_grad_norm_direct, optimizer)
    yield optimizer


def test_the_norm_of_a_large_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed copies all of it into fp64; with the patch a part at a time, and the norm is the same."""
    generator = torch.Generator().manual_seed(1)
    size = 3 * patches.PART_ELEMENTS + 5
    gradients = [torch.randn(size, generator=generator), torch.zeros(7), torch.randn(10, 10, generator=generator)]
    gradients[1]._zero_padding = True  # type: ignore[attr-defined]
    parameters = [torch.empty(0), torch.empty(0)]  # padding has none
    with one_process(monkeypatch) as optimizer:
        with LargestDouble() as copies:
            norm = float(optimizer.get_grad_norm_direct(gradients, parameters))
        assert copies.elements == size

        patches.norm_without_copies(optimizer)
        with LargestDouble() as copies:
            patched = float(optimizer.get_grad_norm_direct(gradients, parameters))
        assert copies.elements == patches.PART_ELEMENTS
        whole = torch.linalg.vector_norm(torch.cat([gradient.double().flatten() for gradient in gradients]))
        assert patched == norm == pytest.approx(float(whole), rel=1e-7)


def test_gradients_are_added_in_fp32_at_once_and_times_are_not_kept() -> None:
    """With embedding and head tied on one stage, and over several micro-batches: 18 bytes of state for each weight."""
    config = cases.tiny_config(precision="bf16", model__tied_embedding=True)
    (kept,) = run_processes(1, cases.kept_by_a_step, config, Topology(1, 1, 1))
    assert kept["bf16 gradients"] == [0] * 16  # forward and backward passes of 4 micro-batches, in 2 steps
    assert kept["bytes"] == pytest.approx(18, rel=1e-3)
    assert kept["timings"] == 0


def test_adding_a_gradient_of_bf16() -> None:
    """DeepSpeed's own addition makes a copy in fp32; ours has the same bits without one."""
    gradient = torch.randn(1000).bfloat16()
    sums, copies = [], []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
            copies[-1] += "_to_copy" in str(function)
            return function(*arguments, **(settings or {}))

    for add in (None, patches.add_gradients_without_copies):
        parameter = torch.nn.Parameter(torch.zeros(1000, dtype=torch.bfloat16))
        parameter.grad = gradient.clone()
        total = torch.linspace(-1, 1, 1000)
        optimizer = SimpleNamespace(
            fp32_groups_gradients=[[total]], fp32_groups_has_gradients=[[False]], autoep_folding_tp_group=None
        )
        if add is None:
            optimizer._update_hp_grad = MethodType(BF16_Optimizer._update_hp_grad, optimizer)
        else:
            add(optimizer)
        copies.append(0)
        with Recorder():
            optimizer._update_hp_grad(parameter, 0, 0, clear_lp_grads=False)
        assert parameter._hp_grad is total and optimizer.fp32_groups_has_gradients == [[True]]
        sums.append(total)
    assert torch.equal(*sums)
    assert copies == [1, 0]
