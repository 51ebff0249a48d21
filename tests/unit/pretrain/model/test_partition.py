from __future__ import annotations

import pytest
import torch

from pretrain.model.partition import Partition


@pytest.mark.parametrize("degree", [1, 2, 4])
@pytest.mark.parametrize(("dim", "blocks"), [(0, (8, 4, 4)), (0, (16,)), (1, (12,))])
def test_merge_undoes_shard(dim: int, blocks: tuple[int, ...], degree: int) -> None:
    partition = Partition(dim, blocks)
    whole = torch.randn([sum(blocks), 12] if dim == 0 else [16, sum(blocks)])
    shards = [partition.shard(whole, rank, degree) for rank in range(degree)]
    assert all(tuple(shard.shape) == partition.shard_shape(whole.shape, degree) for shard in shards)
    assert torch.equal(partition.merge(shards), whole)


def test_a_rank_has_its_part_of_every_block() -> None:
    """Of fused queries, keys and values, not the first half of them all."""
    rows = torch.arange(8.0).unsqueeze(1)
    assert Partition(0, (4, 2, 2)).shard(rows, 1, 2).flatten().tolist() == [2, 3, 5, 7]


def test_a_block_that_does_not_divide_is_named() -> None:
    with pytest.raises(ValueError, match=r"qkv: a block of 6 along dim 0 does not divide by parallel\.tensor=4"):
        Partition(0, (8, 6)).check("qkv", 4)
