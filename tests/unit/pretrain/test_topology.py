from __future__ import annotations

import pytest

from pretrain.topology import Topology


def test_every_rank_has_its_own_place() -> None:
    topology = Topology(pipe=2, data=3, tensor=4, context=5)
    places = [topology.coordinate(rank) for rank in range(topology.world_size)]
    assert len(set(places)) == topology.world_size == 120
    assert [topology.rank(place) for place in places] == list(range(120))


def test_tensor_ranks_are_neighbours() -> None:
    topology = Topology(pipe=2, data=2, tensor=2)
    first, second = topology.coordinate(4), topology.coordinate(5)
    assert (first.pipe, first.data, first.tensor) == (1, 0, 0)
    assert (second.pipe, second.data, second.tensor) == (1, 0, 1)


def test_the_order_of_axes_is_deepspeeds() -> None:
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    ours = Topology(pipe=2, data=3, tensor=2)
    theirs = PipeModelDataParallelTopology(num_pp=2, num_mp=2, num_dp=3)
    for rank in range(ours.world_size):
        place = theirs.get_coord(rank)
        assert ours.rank(ours.coordinate(rank)) == rank
        assert (ours.coordinate(rank).pipe, ours.coordinate(rank).data, ours.coordinate(rank).tensor) == (
            place.pipe,
            place.data,
            place.model,
        )


@pytest.mark.parametrize("rank", [-1, 8])
def test_rank_outside_is_an_error(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank} is outside a mesh of 8 processes"):
        Topology(2, 2, 2).coordinate(rank)


def test_degree_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="parallel degree data=0 must be at least 1"):
        Topology(1, 0, 1)
