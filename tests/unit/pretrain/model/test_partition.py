from __future__ import annotations

import pytest
import torch

from pretrain.model.partition import Partition


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5, 12])
@pytest.mark.parametrize(("dim", "blocks"), [(0, (8, 4, 4)), (0, (16,)), (1, (12,)), (0, (24, 13, 13))])
def test_merge_undoes_shard(dim: int, blocks: tuple[int, ...], degree: int) -> None:
    partition = Partition(dim, blocks)
    whole = torch.randn([sum(blocks), 12] if dim == 0 else [16, sum(blocks)])
    shards = [partition.shard(whole, rank, degree) for rank in range(degree)]
    for rank, shard in enumerate(shards):
        assert tuple(shard.shape) == partition.shard_shape(whole.shape, rank, degree)
    assert torch.equal(partition.merge(shards), whole)


def test_a_rank_has_its_part_of_every_block() -> None:
    """A rank gets its share of the queries, of the keys and of the values, not the first half of the fused matrix."""
    rows = torch.arange(8.0).unsqueeze(1)
    assert Partition(0, (4, 2, 2)).shard(rows, 1, 2).flatten().tolist() == [2, 3, 5, 7]


def test_a_block_that_does_not_divide_is_named() -> None:
    with pytest.raises(ValueError, match=r"qkv: a block of 6 along dim 0 is not divisible by parallel\.tensor=4"):
        Partition(0, (8, 6)).check("qkv", 4)


def test_overlaps_cover_each_row_once_whatever_the_degrees_and_the_padding() -> None:
    for blocks, others in (((24, 13, 13), (24, 13, 13)), ((256,), (384,)), ((640,), (256,))):
        here, there = Partition(0, blocks), Partition(0, others)
        whole = torch.arange(float(sum(others))).unsqueeze(1)
        expected = torch.full((sum(blocks), 1), -1.0)
        common = min(sum(blocks), sum(others))
        expected[:common] = whole[:common]
        for degree in (1, 2, 3, 12):
            for other_degree in (1, 3, 4, 5):
                shards = []
                for rank in range(degree):
                    shard = torch.full((sum(here.sizes(rank, degree)), 1), -1.0)
                    for other in range(other_degree):
                        stored = there.shard(whole, other, other_degree)
                        for start, start_there, length in here.overlaps(rank, degree, there, other, other_degree):
                            assert (shard[start : start + length] == -1).all(), "a row comes twice"
                            shard[start : start + length] = stored[start_there : start_there + length]
                    shards.append(shard)
                assert torch.equal(here.merge(shards), expected)
