"""The part of a micro-batch that a rank of the context axis computes."""

from __future__ import annotations

from pretrain.data.objective import Batch
from pretrain.model.context import ContextParallel
from pretrain.model.layout import causal_layout


def own_tokens(batch: Batch, context: ContextParallel) -> Batch:
    """The micro-batch with this rank's tokens alone, and a layout that says which of all positions they attend to.

    Weights of targets are multiplied by the degree, so that the mean over the ranks is the mean over all targets that
    count.
    """
    if context.degree == 1:
        return batch
    inputs, labels = batch
    tokens_BS, *beside = inputs if isinstance(inputs, tuple) else (inputs,)
    layouts = [tensor for tensor in beside if tensor.ndim == 3]
    keys = [tensor for tensor in beside if tensor.ndim == 1]
    layout_BSC = layouts[0] if layouts else causal_layout(len(tokens_BS), tokens_BS.shape[1], tokens_BS.device)
    own_inputs = (context.own(tokens_BS, 1), context.own(layout_BSC, 1), *keys)
    if not isinstance(labels, tuple):
        return own_inputs, context.own(labels, 1)
    targets_BS, weights_BS = (context.own(part, 1) for part in labels)
    if weights_BS.is_floating_point():  # else it says which targets are scored
        weights_BS = weights_BS * context.degree
    return own_inputs, (targets_BS, weights_BS)
