"""The process groups of the tensor and context axes; DeepSpeed makes those of the pipeline and the replicas."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist

from pretrain.model.context import ContextParallel
from pretrain.topology import Topology


def tensor_group(topology: Topology) -> dist.ProcessGroup:
    """This rank's tensor group."""
    return _own([range(first, first + topology.tensor) for first in range(0, topology.world_size, topology.tensor)])


def context_of(topology: Topology) -> ContextParallel:
    """This rank's share of a sample's tokens."""
    if topology.context == 1:
        return ContextParallel()
    together = topology.context * topology.tensor
    groups = [
        range(first + tensor, first + together, topology.tensor)
        for first in range(0, topology.world_size, together)
        for tensor in range(topology.tensor)
    ]
    return ContextParallel(_own(groups))


def _own(groups: Sequence[Sequence[int]]) -> dist.ProcessGroup:
    """The group that this rank is in. Every rank creates all groups in the same order, as torch requires."""
    made = {ranks: dist.new_group(list(ranks)) for ranks in map(tuple, groups)}
    return next(group for ranks, group in made.items() if dist.get_rank() in ranks)
