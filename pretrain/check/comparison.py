"""How far a sharded result is from the whole one of a single process, and how far it may be."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pretrain.checkpoint.read import BY_TOKEN
from pretrain.engine.engine import Engine
from pretrain.launch.agreement import gathered
from pretrain.model.partition import partition_of

UNIT_ROUNDOFF = {"fp32": 2.0**-24, "bf16": 2.0**-9}
LAST_PLACE = 2.0**-23
"""Distance of two neighbours among fp32 weights, relative to them. An update is much smaller than its weight, so that
this is a visible part of it."""
ROUNDINGS_OF_A_LAYER = {"fp32": 1024, "bf16": 32}
"""Roundings on a value's way through a layer and back. In bf16 about thirty operations round their results; sums inside
a product are taken in fp32. In fp32 these sums round too: about eight products, of 128 terms each in the twin."""


def rounding_bound(precision: str, layers: int) -> float:
    """Largest relative difference of a loss, gradient or update that rounding explains, in the Euclidean norm.

    Two computations of the same formula differ by their rounding errors. These have random signs, so that n of them
    add up to sqrt(n) units and not to n (Higham and Mary 2019, A New Approach to Probabilistic Rounding Error Analysis,
    SIAM J. Sci. Comput. 41(5), theorem 2.4). A sum that is skipped or taken twice changes a gradient by a share of
    itself.
    """
    return UNIT_ROUNDOFF[precision] * math.sqrt(ROUNDINGS_OF_A_LAYER[precision] * (layers + 1))


class _Place(NamedTuple):
    """A copy of a parameter's shard: copies have the same name and tensor rank."""

    name: str
    tensor: int
    pipe: int


@dataclass(frozen=True)
class _Part:
    """One rank's part of the difference of a parameter.

    Attributes:
        square: sum of squared differences, fp64.
        is_sharded: each tensor rank has another part of the parameter.
    """

    place: _Place
    square: float
    is_sharded: bool


def own_part(engine: Engine, name: str, whole: torch.Tensor) -> torch.Tensor:
    """This rank's shard of a whole parameter-shaped tensor; padding rows are zero."""
    parameter = dict(engine.parameters())[name]
    if name in BY_TOKEN:
        vocabulary = engine.config.model.vocabulary_size
        padded = whole.new_zeros(engine.whole_shape(parameter))
        padded[:vocabulary] = whole[:vocabulary]
        whole = padded
    partition = partition_of(parameter)
    if partition is None:
        return whole
    return partition.shard(whole, engine.coordinate.tensor, engine.topology.tensor)


def gradient_differences(
    engine: Engine, found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """Relative difference of each parameter's gradient, of the worst copy. Collective.

    Args:
        found: this rank's shards.
        expected: whole gradients.
    """
    parts = []
    for name, gradient in found.items():
        difference = gradient.double() - own_part(engine, name, expected[name]).double().view_as(gradient)
        parts.append(_part(engine, name, difference))
    return _relative(gathered(parts), expected, are_pieces=False)


def update_differences(
    engine: Engine, before: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """Relative difference of each parameter's update, of the worst copy. Collective.

    Args:
        before: master weights of this rank's fragments before the update.
        expected: what the update adds to whole weights.
    """
    parts = []
    for fragment in engine.fragments():
        own = own_part(engine, fragment.name, expected[fragment.name]).reshape(-1)[fragment.start : fragment.stop]
        weight = fragment.states["weight"].double()
        difference = (weight - before[fragment.name].double() - own.double()).abs()
        # An update is the difference of two weights, each rounded once here and once in the reference.
        parts.append(_part(engine, fragment.name, (difference - LAST_PLACE * weight.abs()).clamp_min(0)))
    return _relative(gathered(parts), expected, are_pieces=True)


def _part(engine: Engine, name: str, difference: torch.Tensor) -> _Part:
    is_sharded = partition_of(dict(engine.parameters())[name]) is not None
    place = _Place(name, engine.coordinate.tensor, engine.coordinate.pipe)
    return _Part(place, float(difference.square().sum()), is_sharded)


def _relative(
    by_rank: list[list[_Part]], expected: Mapping[str, torch.Tensor], *, are_pieces: bool
) -> dict[str, float]:
    """Differences over whole parameters, relative to what is expected.

    Args:
        are_pieces: the data ranks have different pieces of a shard, and not copies of it.
    """
    shards: dict[_Place, float] = {}
    sharded = set()
    for part in (part for parts in by_rank for part in parts):
        before = shards.get(part.place, 0.0)
        shards[part.place] = before + part.square if are_pieces else _larger(before, part.square)
        if part.is_sharded:
            sharded.add(part.place.name)
    copies: dict[tuple[str, int], float] = defaultdict(float)
    for place, square in shards.items():
        key = place.name, place.pipe
        copies[key] = copies[key] + square if place.name in sharded else _larger(copies[key], square)
    worst: dict[str, float] = {}
    for (name, _), square in copies.items():
        worst[name] = _larger(worst.get(name, 0.0), square)
    norms = {name: float(torch.linalg.vector_norm(expected[name].double())) for name in worst}
    return {name: math.sqrt(square) / max(norms[name], 1e-30) for name, square in worst.items()}


def _larger(a: float, b: float) -> float:
    """The larger number; NaN when one is NaN, which `max` may drop."""
    return max(a, b) if a == a and b == b else math.nan
