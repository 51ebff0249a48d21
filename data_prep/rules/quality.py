"""The rule on the probability from a quality classifier; classifier and threshold are settings, see `QualityConfig`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_prep.rules.rule import Rule

if TYPE_CHECKING:
    from data_prep.config import QualityConfig


def rules_of(config: QualityConfig) -> tuple[Rule, ...]:
    """Return the rule with the configured threshold.

    Raises:
        ValueError: there is no classifier.

    LLaMA "discarded pages not classified as references": Touvron et al. 2023, arXiv:2302.13971, section 2.1.
    """
    if config.model is None:
        raise ValueError("rule set `quality` needs a classifier, and quality.model names none")
    source = "quality.minimum_probability; by default as Touvron et al. 2023, arXiv:2302.13971, section 2.1"
    return (Rule("quality.probability", "quality_probability", "at least", config.minimum_probability, source),)
