"""Predictions beside published runs."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest

from tools.plan.__main__ import PUBLISHED_ERROR
from tools.plan.published import errors, published_runs

MEDIAN, LARGEST = 0.08, 0.2


def test_published_runs_are_predicted() -> None:
    middle, largest = errors()
    assert middle <= min(MEDIAN, PUBLISHED_ERROR) and largest <= LARGEST


def test_runs_that_chose_no_constant_are_predicted_too() -> None:
    others = [abs(run.error) for run in published_runs() if not run.fitted and not run.reason]
    assert len(others) >= 15 and median(others) <= MEDIAN


def test_a_reason_is_given_where_it_is_needed_and_only_there() -> None:
    for run in published_runs():
        assert bool(run.reason) == (abs(run.error) > LARGEST), run.name


@pytest.mark.parametrize("change", [{"products": 0.5}, {"link_rate": 30e9}, {"memory_rate": 2e11}])
def test_wrong_hardware_is_noticed(change: dict[str, float]) -> None:
    wrong = [abs(replace(run, hardware=replace(run.hardware, **change)).error) for run in published_runs()]
    assert median(wrong) > MEDIAN


def test_published_sizes_are_those_of_the_models() -> None:
    """Billions of parameters in the names, as the sources round them."""
    from pretrain.families.mapping import parameter_count

    counted = {run.name: parameter_count(run.model) / 1e9 for run in published_runs()}
    for name, expected in {
        "GPT 1.7B, 32 A100": 1.65,
        "GPT 1.7B, 48 H100": 1.75,
        "GPT 529.6B, 2520 A100": 529.6,
        "GPT 1008.0B, 3072 A100": 1008.0,
        "GPT 462B, 6144 H100": 462,
        "BLOOM 176B, 384 A100": 176.25,
        "LLaMA 65B, 2048 A100": 65.2,
        "Llama 3 405B, 8192 H100": 405.9,
        "Nemotron-4 340B, 6144 H100": 341,
    }.items():
        assert counted[name] == pytest.approx(expected, rel=0.01), name
