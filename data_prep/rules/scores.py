"""Rules on scores that come with the documents; fields and thresholds are settings, see `ScoreConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from data_prep.rules.rule import Comparison, Rule
from data_prep.signals.scores import PREFIX

if TYPE_CHECKING:
    from data_prep.config import ScoreConfig


def rules_of(settings: Mapping[str, ScoreConfig]) -> tuple[Rule, ...]:
    """Return a rule for each threshold.

    Raises:
        ValueError: there is none.

    FineWeb-Edu keeps documents of at least 3: Penedo et al. 2024, arXiv:2406.17557, section 4.
    """
    rules = []
    for name, setting in settings.items():
        bounds: tuple[tuple[str, Comparison, float | None], ...] = (
            (f"scores.{name}", "at least", setting.minimum),
            (f"scores.{name}_maximum", "at most", setting.maximum),
        )
        for rule, comparison, threshold in bounds:
            if threshold is not None:
                source = f"scores.{name}; as FineWeb-Edu: Penedo et al. 2024, arXiv:2406.17557, section 4"
                passes = setting.without == "keep"
                rules.append(Rule(rule, PREFIX + name, comparison, threshold, source, missing_passes=passes))
    if not rules:
        raise ValueError("rule set `scores` needs thresholds: give a score of `scores` a minimum or a maximum")
    return tuple(rules)
