"""Dropout masks: the requested rate, equal where a tensor is sharded, different everywhere else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pretrain.config import ObjectiveConfig
from pretrain.data.objective import Objective, Windows, dropout_key
from pretrain.model.attention import causal_attention
from pretrain.model.dropout import AttentionDropout, drop_attention, drop_hidden


def keys(*samples: int) -> torch.Tensor:
    return torch.tensor([int(dropout_key(7, "train", sample)) for sample in samples])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_and_the_mean_are_right(rate: float) -> None:
    x = torch.ones(128, 8, 256)
    dropped = drop_hidden(x, rate, keys(*range(8)), site=3)
    share = (dropped == 0).float().mean().item()
    assert share == pytest.approx(rate, abs=4 * (rate * (1 - rate) / x.numel()) ** 0.5)
    assert torch.equal(dropped[dropped != 0].unique(), torch.tensor([1 / (1 - rate)]))
    weights = torch.ones(2, 4, 128, 128)
    attention = (drop_attention(weights, rate, keys(0, 1), 2, 0, torch.arange(128)) == 0).float().mean().item()
    assert attention == pytest.approx(rate, abs=4 * (rate * (1 - rate) / weights.numel()) ** 0.5)


def test_masks_of_samples_sites_places_and_heads_are_independent() -> None:
    """Two masks of probability 1/2 agree at half of the places, and so do neighbours within one mask."""
    length, hidden = 64, 512
    x = torch.ones(length, 3, hidden)
    masks = [drop_hidden(x, 0.5, keys(4, 5, 6), site)[:, sample] == 0 for site in (0, 1, 2, 5) for sample in range(3)]
    heads = drop_attention(torch.ones(3, 3, 128, 256), 0.5, keys(4, 5, 6), 1, 0, torch.arange(128)) == 0
    masks += list(heads.flatten(0, 1).reshape(9, length, hidden))
    spread = 5 * 0.5 * (length * hidden) ** -0.5
    for one, other in itertools.combinations(masks, 2):
        assert (one == other).float().mean().item() == pytest.approx(0.5, abs=spread)
    for mask in masks:
        for shifted in (mask.roll(1, 0), mask.roll(1, 1), mask.roll(7, 1)):
            assert (mask == shifted).float().mean().item() == pytest.approx(0.5, abs=spread)


def test_a_part_has_its_part_of_the_whole_mask() -> None:
    """Slices of positions (sequence parallelism), heads (tensor) and samples (data) equal those of the whole mask."""
    x = torch.randn(24, 4, 32)
    whole = drop_hidden(x, 0.3, keys(0, 1, 2, 3), 5)
    assert torch.equal(drop_hidden(x[8:16, 2:], 0.3, keys(2, 3), 5, torch.arange(8, 16)), whole[8:16, 2:])
    weights = torch.rand(4, 8, 16, 16)
    places = torch.arange(16)
    whole = drop_attention(weights, 0.3, keys(0, 1, 2, 3), 5, 0, places)
    part = drop_attention(weights[1:3, 4:, 8:, 3:], 0.3, keys(1, 2), 5, first_head=4, places_Q=places[8:], first_key=3)
    assert torch.equal(part, whole[1:3, 4:, 8:, 3:])


def test_attention_drops_its_weights() -> None:
    q, k, v = (torch.randn(2, 4, 300, 16) for _ in range(3))
    found = causal_attention(q, k, v, dropout=AttentionDropout(0.2, keys(8, 9), 1, 0))
    scores = (q @ k.transpose(2, 3) / 4).masked_fill(torch.ones(300, 300, dtype=torch.bool).triu(1), float("-inf"))
    expected = drop_attention(scores.softmax(-1), 0.2, keys(8, 9), 1, 0, torch.arange(300)) @ v
    torch.testing.assert_close(found, expected)


def test_samples_bring_their_keys_whatever_batch_they_are_in() -> None:
    objective = Objective(ObjectiveConfig(), 7, dropout=True)
    windows = np.arange(4 * 9).reshape(4, 9)
    (tokens, together), targets = objective.batch(Windows(windows, np.array([11, 12, 13, 14])))
    assert tokens.tolist() == windows[:, :-1].tolist() and targets.tolist() == windows[:, 1:].tolist()
    (_, alone), _ = objective.batch(Windows(windows[2:3], np.array([13])))
    assert together[2] == alone[0] and len(together.unique()) == 4
