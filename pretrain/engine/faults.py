"""Faults of distributed training that can be planted in an engine, for a check to prove that it would notice them.

Each is planted where no compiled code has to be compiled again, and taken out at the end of its `with` block.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pretrain.data.objective import Batch
from pretrain.engine.engine import EMBEDDING, Engine
from pretrain.engine.library import BF16_Optimizer
from pretrain.model.layout import SEEN_END


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: what is wrong, as text.
        absence: why the engine cannot have it; empty: it can.
        plant: context in which the engine has it.
        change: what it does to a micro-batch of the engine.
    """

    name: str
    absence: Callable[[Engine], str]
    plant: Callable[[Engine], Any]
    change: Callable[[Batch], Batch] = lambda batch: batch


@contextmanager
def _nothing(engine: Engine) -> Iterator[None]:
    yield


class _Unsummed(torch.autograd.Function):
    """The head's input at all positions, whose gradient stays this rank's own part."""

    @staticmethod
    def forward(ctx: Any, x_SBD: torch.Tensor, tensor_parallel: Any) -> torch.Tensor:
        ctx.tensor_parallel = tensor_parallel
        return tensor_parallel.whole(x_SBD.detach()).clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.tensor_parallel.own_positions(grad_outputs[0], 0).contiguous(), None


@contextmanager
def _replaced(place: Any, **attributes: Any) -> Iterator[None]:
    """Attributes of an object replaced by others, on the object alone."""
    own = vars(place)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del own[name]
        own.update(before)


@contextmanager
def _no_tensor_sum(engine: Engine) -> Iterator[None]:
    with ExitStack() as stack:
        for head in engine.modules():
            if hasattr(head, "head_factors"):
                right: Any = head.tensor_parallel
                broken = copy.copy(right)
                broken.whole = lambda x_SBD, right=right: _Unsummed.apply(x_SBD, right)
                stack.enter_context(_replaced(head, tensor_parallel=broken))
        yield


def _tokens_by_rank(engine: Engine) -> Any:
    """Each rank has one run of tokens, where keys are put in order as two chunks of each."""
    context = engine._tensor_parallel.context
    return _replaced(context, own=lambda x, dim: x.chunk(context.degree, dim)[context.rank])


def _no_data_sum(engine: Engine) -> Any:
    deepspeed = engine._engine
    if isinstance(deepspeed.optimizer, BF16_Optimizer):
        return _replaced(deepspeed, pipeline_enable_backward_allreduce=False)
    return _replaced(deepspeed.optimizer, average_tensor=lambda tensor, dtype: None)


def _no_partial_sum(engine: Engine) -> Any:
    return _replaced(engine, partial_parameters=[])


def _no_tied_sum(engine: Engine) -> Any:
    return _replaced(engine._pipeline, get_tied_weights_and_groups=list)


def _no_accumulation_scale(engine: Engine) -> Any:
    """Gradients are sums over the micro-batches; the loss that is reported stays their mean."""
    deepspeed = engine._engine
    micro_batches = deepspeed.gradient_accumulation_steps()
    return _replaced(
        deepspeed,
        gradient_accumulation_steps=lambda: 1,
        _scale_loss_by_gas=lambda loss, eval_micro_batches=None: loss / micro_batches,
    )


def _later_loss_mask(batch: Batch) -> Batch:
    inputs, (targets_BS, weights_BS) = batch
    return inputs, (targets_BS, weights_BS.roll(1, dims=1))


def _later_layout(batch: Batch) -> Batch:
    (tokens_BS, layout_BSC, *keys), labels = batch
    layout_BSC = layout_BSC.clone()
    layout_BSC[..., SEEN_END] = (layout_BSC[..., SEEN_END] + 1).clamp_max(layout_BSC.shape[1])
    return (tokens_BS, layout_BSC, *keys), labels


def _tensor_absence(engine: Engine) -> str:
    if engine.topology.tensor == 1:
        return "parallel.tensor is 1"
    before_head = [name for name in engine.config.trained_shapes if not name.startswith("head.")]
    return "" if before_head else "nothing before the head is trained"


def _context_absence(engine: Engine) -> str:
    return "parallel.context is 1" if engine.topology.context == 1 else ""


def _partial_absence(engine: Engine) -> str:
    if engine.topology.tensor == 1:
        return "parallel.tensor is 1"
    return "" if engine.partial_parameters else "no weight has a partial gradient"


def _tied_absence(engine: Engine) -> str:
    config = engine.config
    if not config.model.tied_embedding or engine.topology.pipe == 1:
        return "no weight is shared by two stages"
    return "" if EMBEDDING in config.trained_shapes else "the shared weight is not trained"


FAULTS = (
    Fault("tensor sum skipped", _tensor_absence, _no_tensor_sum),
    Fault("partial gradients not summed", _partial_absence, _no_partial_sum),
    Fault(
        "data sum skipped",
        lambda engine: "parallel.data is 1" if engine.topology.replicas == 1 else "",
        _no_data_sum,
    ),
    Fault("tokens in the order of the ranks", _context_absence, _tokens_by_rank),
    Fault("tied gradients not summed", _tied_absence, _no_tied_sum),
    Fault(
        "micro-batches not averaged",
        lambda engine: "" if engine.config.accumulation_steps(engine.topology.data) > 1 else "one micro-batch a step",
        _no_accumulation_scale,
    ),
    Fault("loss mask one token late", lambda engine: "", _nothing, _later_loss_mask),
    Fault(
        "attention sees a token more",
        lambda engine: "" if engine.config.has_layout else "samples have no layout",
        _nothing,
        _later_layout,
    ),
)
"""Faults to plant, most of which leave the loss and the gradient norm plausible."""
