"""Published laws are recovered, and the fit is the best there is."""

from __future__ import annotations

import numpy as np
import pytest

from tools.ladder.law import HUBER_DELTA, Array, LossLaw, fit, fit_loss, loss_law

PUBLISHED = {
    "Hoffmann et al. 2022, arXiv:2203.15556, equation 10": LossLaw(1.69, 406.4, 0.34, 410.7, 0.28),
    "Besiroglu et al. 2024, arXiv:2404.10102": LossLaw(1.8172, 482.01, 0.3478, 2085.43, 0.3658),
    "Muennighoff et al. 2023, arXiv:2305.16264, appendix A": LossLaw(1.87, 521.0, 0.353, 1488.0, 0.353),
    "small models": LossLaw(0.9, 30.0, 0.3, 150.0, 0.35),
}


def grid(smallest: float) -> tuple[Array, Array]:
    sizes = smallest * np.array([1, 1.6, 2.5, 4, 6.3])
    parameters = np.repeat(sizes, 3)
    return parameters, parameters * np.tile([20.0, 40.0, 80.0], 5)


def losses_of(law: LossLaw, parameters: Array, tokens: Array) -> Array:
    return law.E + law.A / parameters**law.alpha + law.B / tokens**law.beta


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("smallest", [4e4, 7e7])
def test_published_laws_are_recovered(name: str, smallest: float) -> None:
    law, (parameters, tokens) = PUBLISHED[name], grid(smallest)
    found = loss_law(fit_loss(parameters, tokens, losses_of(law, parameters, tokens)[None]))
    assert (found.E, found.alpha, found.beta) == pytest.approx((law.E, law.alpha, law.beta), rel=1e-5)
    assert pytest.approx((law.A, law.B), rel=1e-4) == (found.A, found.B)


def test_one_bad_run_changes_little() -> None:
    """Huber's loss: with squares, this point would take the law with it."""
    law, (parameters, tokens) = PUBLISHED["small models"], grid(4e4)
    losses = losses_of(law, parameters, tokens)
    losses[4] *= 1.1
    found = loss_law(fit_loss(parameters, tokens, losses[None]))
    assert found(6e5, 2.4e7) == pytest.approx(law(6e5, 2.4e7), rel=1e-3)


def test_no_other_numbers_are_better() -> None:
    """Noise, and a thousand random changes of what was found, small and large."""
    law, (parameters, tokens) = PUBLISHED["small models"], grid(4e4)
    random = np.random.default_rng(0)
    losses = losses_of(law, parameters, tokens) * np.exp(random.normal(0, 0.004, len(tokens)))

    def objective(one: LossLaw) -> float:
        left = np.abs(np.log(losses_of(one, parameters, tokens) / losses))
        return float(np.sum(np.where(left <= HUBER_DELTA, left**2 / 2, HUBER_DELTA * (left - HUBER_DELTA / 2))))

    powers = fit_loss(parameters, tokens, losses[None])
    found = loss_law(powers)
    lowest = objective(found)
    assert powers.objective[0] == pytest.approx(lowest)
    for size in (1e-4, 1e-2, 0.1):
        for change in np.exp(random.normal(0, size, (300, 5))):
            names = ("E", "A", "alpha", "B", "beta")
            other = LossLaw(*(getattr(found, name) * factor for name, factor in zip(names, change, strict=True)))
            assert objective(other) >= lowest * (1 - 1e-6)


def test_fits_together_are_those_alone() -> None:
    law, (parameters, tokens) = PUBLISHED["small models"], grid(4e4)
    random = np.random.default_rng(1)
    losses = losses_of(law, parameters, tokens) * np.exp(random.normal(0, 0.004, (20, len(tokens))))
    weights = random.dirichlet(np.ones(len(tokens)), 20) * len(tokens)
    together = fit_loss(parameters, tokens, losses, weights)
    for i in range(20):
        alone = fit_loss(parameters, tokens, losses[i : i + 1], weights[i : i + 1])
        assert together.objective[i] == pytest.approx(alone.objective[0], rel=2e-2)
        assert together(6e5, 2.4e7)[i, 0] == pytest.approx(alone(6e5, 2.4e7)[0, 0], rel=2e-3)


def test_loss_by_compute() -> None:
    flops = np.geomspace(1e12, 1e15, 6)
    found = fit(flops[:, None], (35.0 * flops**-0.11 + 1.2)[None])
    assert found.coefficients[0, 0] == pytest.approx(35.0, rel=1e-4)
    assert (found.exponents[0, 0], found.irreducible[0]) == pytest.approx((0.11, 1.2), rel=1e-5)


def test_a_straight_power_has_no_end() -> None:
    """Losses that do not bend: the irreducible loss is zero, and said to be on its bound."""
    flops = np.geomspace(1e12, 1e15, 6)
    found = fit(flops[:, None], (35.0 * flops**-0.05 - 0.5)[None])
    assert found.irreducible[0] == 0 and not found.is_inside[0]


def test_the_optimum_of_a_law_has_the_lowest_loss() -> None:
    law = PUBLISHED["Besiroglu et al. 2024, arXiv:2404.10102"]
    flops = 5.76e23  # Gopher's and Chinchilla's
    parameters, tokens = law.optimum(flops)
    assert 6 * parameters * tokens == pytest.approx(flops)
    assert 15 < tokens / parameters < 25  # about 20, as the paper finds
    best = law(parameters, tokens)
    for factor in (0.8, 0.97, 1.03, 1.25):
        assert law(parameters * factor, tokens / factor) > best
