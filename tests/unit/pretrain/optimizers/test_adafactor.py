"""Adafactor without factorization: a parameter scale, a growing memory, and transformers' numbers."""

from __future__ import annotations

import math

import pytest
import torch

from pretrain.device import group_alone
from pretrain.engine.optimizer import BufferedWeight, _pieces, tell_of_buffer
from pretrain.model.partition import Partition
from pretrain.optimizers.adafactor import SMALLEST_RMS, Adafactor

SIZES = (30, 12)


def made(decay: float) -> tuple[Adafactor, torch.nn.Parameter]:
    torch.manual_seed(1)
    flat = torch.nn.Parameter(torch.randn(sum(SIZES) + 2))
    optimizer = Adafactor([{"params": [flat], "weight_decay": decay, "is_orthogonalised": False}], lr=0.05, beta1=0.9)
    contents = [BufferedWeight(f"layers.{size}", (size,), (size,), None) for size in SIZES]
    tell_of_buffer(optimizer, optimizer.param_groups[0], contents, 99, group_alone(), group_alone())
    return optimizer, flat


def test_steps_are_those_of_transformers() -> None:
    """On vectors, which its Adafactor does not factorize; it has no decay by the squared rate."""
    from transformers.optimization import Adafactor as Reference

    optimizer, flat = made(decay=0.0)
    theirs = [torch.nn.Parameter(part.clone()) for part in flat.detach()[:-2].split(SIZES)]
    reference = Reference(
        theirs, lr=0.05, eps=(1e-30, SMALLEST_RMS), beta1=0.9, scale_parameter=True, relative_step=False
    )
    for number in range(4):
        flat.grad = torch.randn(flat.shape) * 10.0**-number
        for own, piece in zip(theirs, flat.grad[:-2].split(SIZES), strict=True):
            own.grad = piece.clone()
        optimizer.step()
        reference.step()
        torch.testing.assert_close(flat.detach()[:-2], torch.cat([own.detach() for own in theirs]))


def test_matrices_decay_by_the_square_of_the_rate() -> None:
    (plain, without), (optimizer, flat) = made(decay=0.0), made(decay=1.0)
    before = flat.detach().clone()
    for own in (without, flat):
        own.grad = torch.ones_like(own)
    plain.step()
    optimizer.step()
    torch.testing.assert_close(without.detach() - flat.detach(), 0.05**2 * before)


def test_a_dropped_update_changes_nothing_and_does_not_count() -> None:
    optimizer, flat = made(decay=1.0)
    flat.grad = torch.ones_like(flat)
    optimizer.step()
    before = {name: values.clone() for name, values in optimizer.state[flat].items()}, flat.detach().clone()
    flat.grad = torch.full_like(flat, math.nan)
    optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    optimizer.step()
    assert torch.equal(flat, before[1])
    for name, values in before[0].items():
        assert torch.equal(optimizer.state[flat][name], values), name


@pytest.mark.parametrize("rank", [0, 1])
def test_padding_rows_and_copies_do_not_count(rank: int) -> None:
    contents = [
        BufferedWeight("embedding.weight", (10, 4), (5, 4), Partition(0, (10,))),  # seven tokens
        BufferedWeight("final_norm.weight", (4,), (4,), None),
        BufferedWeight("layers.0.mlp.down.weight", (4, 6), (4, 3), Partition(1, (6,))),
    ]
    pieces = [piece for first in (0, 18) for piece in _pieces(contents, 7, first, 18, rank, 2)]
    assert [piece.size for piece in pieces] == [28, 4, 24] * 2
    for number, (size, counted) in enumerate([(20, 20 if rank == 0 else 8), (4, 4 if rank == 0 else 0), (12, 12)]):
        own = pieces[number::3]
        assert sum(piece.stop - piece.start for piece in own) == size
        assert sum(max(0, piece.counted - piece.start) for piece in own) == counted
