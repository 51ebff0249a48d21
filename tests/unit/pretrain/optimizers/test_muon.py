"""Muon's steps are torch's, whatever ranges and parts its matrices are in."""

from __future__ import annotations

import math

import pytest
import torch

from pretrain.device import group_alone
from pretrain.model.partition import Partition
from pretrain.optimizers.muon import STEP_RMS, Exchange, Matrix, Muon, _owners, orthogonalised

SHAPES = ((12, 8), (8, 20), (6, 6))


def made(momentum: float = 0.9, decay: float = 0.1) -> tuple[Muon, torch.nn.Parameter]:
    """Three matrices and a vector; the matrices in one flat buffer, as in ZeRO."""
    generator = torch.Generator().manual_seed(1)
    size = sum(math.prod(shape) for shape in SHAPES)
    flat = torch.nn.Parameter(torch.randn(size + 2, generator=generator))
    vector = torch.nn.Parameter(torch.randn(5, generator=generator))
    groups = [
        {"params": [flat], "weight_decay": decay, "is_orthogonalised": True},
        {"params": [vector], "weight_decay": 0.0, "is_orthogonalised": False},
    ]
    optimizer = Muon(groups, momentum=momentum, dtype=torch.float32, lr=0.02, betas=(0.9, 0.95), eps=1e-8, fused=True)
    matrices = [Matrix(shape, None) for shape in SHAPES]
    optimizer.exchanges[flat] = Exchange(matrices, len(flat), group_alone(), group_alone())
    for own in (flat, vector):
        own.grad = torch.randn(own.shape, generator=generator)
    return optimizer, flat


def test_singular_values_come_close_to_one() -> None:
    torch.manual_seed(2)
    for shape in ((64, 16), (16, 64), (32, 32)):
        step = orthogonalised(torch.randn(shape), torch.float32)
        values = torch.linalg.svdvals(step) / (STEP_RMS * max(shape) ** 0.5)
        assert values.max() < 1.3 and (values > 0.6).float().mean() > 0.9
        assert step.square().mean().sqrt() == pytest.approx(STEP_RMS, rel=0.25)  # of the square one, some are small


def test_steps_are_those_of_torch() -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch has a Muon of its own since 2.9")
    optimizer, flat = made()
    parts = flat.detach()[:-2].split([math.prod(shape) for shape in SHAPES])
    theirs = [torch.nn.Parameter(part.view(shape).clone()) for part, shape in zip(parts, SHAPES, strict=True)]
    reference = torch.optim.Muon(theirs, lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    generator = torch.Generator().manual_seed(3)
    before = flat.detach().clone()
    for _ in range(3):
        flat.grad = torch.randn(flat.shape, generator=generator)
        pieces = flat.grad[:-2].split([math.prod(shape) for shape in SHAPES])
        for own, piece, shape in zip(theirs, pieces, SHAPES, strict=True):
            own.grad = piece.view(shape).clone()
        optimizer.step()
        reference.step()
    expected = torch.cat([own.detach().reshape(-1) for own in theirs])
    moved = (expected - before[:-2]).norm()
    assert (flat.detach()[:-2] - expected).norm() < 0.02 * moved  # torch multiplies in bf16
    assert (flat.detach()[:-2] - before[:-2]).norm() > 0.5 * moved


def test_a_dropped_update_changes_nothing() -> None:
    optimizer, flat = made()
    optimizer.step()
    before = {name: values.clone() for name, values in optimizer.state[flat].items()}, flat.detach().clone()
    assert flat.grad is not None
    flat.grad[3] = math.nan
    optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    optimizer.step()
    assert torch.equal(flat, before[1])
    assert torch.equal(optimizer.state[flat]["exp_avg"], before[0]["exp_avg"])


def test_fused_matrices_are_orthogonalised_block_by_block() -> None:
    torch.manual_seed(4)
    whole = torch.randn(12, 6)
    fused = Matrix((12, 6), Partition(0, (8, 2, 2)))
    alone = fused.step([whole], 0, torch.float32)
    blocks = [orthogonalised(block, torch.float32) for block in whole.split((8, 2, 2))]
    torch.testing.assert_close(alone, torch.cat(blocks))
    assert fused.partition is not None
    shards = [fused.partition.shard(whole, rank, 2) for rank in range(2)]
    for rank in range(2):
        step = fused.step(shards, rank, torch.float32)
        torch.testing.assert_close(step, fused.partition.shard(alone, rank, 2), rtol=0, atol=0)


def test_every_matrix_has_one_owner_and_shares_are_alike() -> None:
    sizes = [96, 160, 36, 500, 8, 8, 300]
    for ranks in (1, 2, 3, 8):
        owners = _owners(sizes, ranks)
        assert owners == sorted(owners) and set(owners) <= set(range(ranks))
        owned = [sum(size for size, owner in zip(sizes, owners, strict=True) if owner == r) for r in range(ranks)]
        assert max(owned) <= sum(sizes) / ranks + max(sizes)
