"""The law of losses by weights: recovered from points, honest about noise, and minimised within limits."""

from __future__ import annotations

import numpy as np
import pytest

from tools.mixture.law import (
    Array,
    Goal,
    MixtureError,
    answer,
    best_weights,
    capped,
    fit_source,
    rank_correlation,
    starting_weights,
)

EVEN = np.full(3, 1 / 3)
FREE = np.ones(3)


def mixtures(count: int, sources: int = 3, seed: int = 1) -> Array:
    return np.random.default_rng(seed).dirichlet(np.ones(sources), count)


def losses(weights: Array, noise: float = 0.0, seed: int = 2) -> Array:
    """Each source's loss falls with its own weight and a little with its neighbour's: 2 + exp(-1.5 w_i - 0.3 w_j)."""
    own = np.stack(
        [2 + np.exp(-1.5 * weights[:, i] - 0.3 * weights[:, i - 1]) for i in range(weights.shape[1])], axis=1
    )
    return own + np.random.default_rng(seed).normal(0, noise, own.shape)


def test_a_law_is_recovered_from_its_own_points() -> None:
    weights = mixtures(40)
    fresh = mixtures(200, seed=9)
    for column, right in zip(losses(weights).T, losses(fresh).T, strict=True):
        law = fit_source(weights, column)
        assert law.floor is not None
        assert np.abs(law(fresh) - right).max() < 0.01
        assert np.abs(law.left_out - column).max() < 0.02


def test_a_linear_law_is_found_where_it_is_one() -> None:
    weights = mixtures(40)
    column = weights @ np.array([3.0, 2.5, 2.0])
    law = fit_source(weights, column)
    assert law.floor is None
    np.testing.assert_allclose(law.numbers, [0.0, 3.0, 2.5, 2.0], atol=1e-3)
    assert law.power == 1


def test_predictions_of_runs_left_out_are_those_of_refits() -> None:
    """Allen's PRESS, against fits that really leave a run out."""
    weights = mixtures(12)
    column = losses(weights, 0.01)[:, 0]
    law = fit_source(weights, column)
    others = [fit_source(np.delete(weights, i, 0), np.delete(column, i))(weights[i : i + 1])[0] for i in range(12)]
    assert rank_correlation(law.left_out, np.array(others)) > 0.9


def test_the_best_weights_are_those_of_a_dense_grid() -> None:
    weights = mixtures(60)
    shares = np.array([0.6, 0.3, 0.1])
    goal = Goal([fit_source(weights, column) for column in losses(weights).T], shares)
    found = best_weights(goal, FREE, starting_weights(FREE, np.random.default_rng(0)))
    grid = np.array([(a, b, 100 - a - b) for a in range(101) for b in range(101 - a)]) / 100
    assert goal(found[None])[0] <= goal(grid[(grid > 0).all(axis=1)]).min() + 1e-6
    assert found.sum() == pytest.approx(1) and (found > 0).all()


def test_limits_hold() -> None:
    weights = mixtures(60)
    goal = Goal([fit_source(weights, losses(weights)[:, 0])], np.ones(1))
    free = best_weights(goal, FREE, starting_weights(FREE, np.random.default_rng(0)))
    assert free[0] > 0.9
    most = np.array([0.2, 0.9, 0.5])
    found = best_weights(goal, most, starting_weights(most, np.random.default_rng(0)))
    assert (found <= most + 1e-9).all() and found[0] == pytest.approx(0.2) and found.sum() == pytest.approx(1)
    with pytest.raises(MixtureError, match="tokens for 60% of the run"):
        starting_weights(np.array([0.2, 0.2, 0.2]), np.random.default_rng(0))


@pytest.mark.parametrize("most", [[1, 1, 1], [0.5, 0.4, 0.3], [0.1, 0.6, 0.3]])
def test_capped_weights_sum_to_one(most: list[float]) -> None:
    for weights in mixtures(200):
        found = capped(weights, np.array(most))
        assert found.sum() == pytest.approx(1) and (found <= np.array(most) + 1e-9).all()


def test_intervals_hold_the_loss_of_new_runs() -> None:
    """Of twenty searches with noise, the interval holds what one more run reaches in nine of ten, about."""
    inside = 0
    for seed in range(20):
        weights = mixtures(30, seed=seed)
        found = answer(weights, losses(weights, 0.01, seed + 100), EVEN, FREE, seed)
        reached = losses(found.weights[None], 0.01, seed + 500)[0] @ EVEN
        inside += found.loss_low <= reached <= found.loss_high
    assert inside >= 16


def test_noise_alone_is_refused() -> None:
    weights = mixtures(30)
    noise = 2 + np.random.default_rng(3).normal(0, 0.1, (30, 3))
    with pytest.raises(MixtureError, match="no better than the mean"):
        answer(weights, noise, EVEN, FREE, 0)


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(MixtureError, match="7 runs on 3 sources: at least 8 are needed"):
        answer(mixtures(7), losses(mixtures(7)), EVEN, FREE, 0)
