"""CCNet's buckets of perplexity as rules; models and bounds of the buckets are settings, see `LanguageModelConfig`. The
rules do not apply to languages without a model, which CCNet keeps as one bucket, `all`.

Source: Wenzek et al. 2020, arXiv:1911.00359, "LM filtering"; cc_net/perplexity.py, PerplexityBucket.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from data_prep.rules.rule import Rule

if TYPE_CHECKING:
    from data_prep.config import LanguageModelConfig

BUCKETS = {"ccnet_head": "head", "ccnet_middle": "middle"}
"""Settings with the bounds, by rule set."""


def rules_of(rule_set: str, models: Mapping[str, LanguageModelConfig]) -> tuple[Rule, ...]:
    """Return a rule with a threshold for each language; `ccnet_head` keeps the head, `ccnet_middle` head and middle.

    Raises:
        ValueError: no language has a model, or one lacks the bound.
    """
    setting = BUCKETS[rule_set]
    if not models:
        raise ValueError(f"rule set `{rule_set}` needs perplexity, and `perplexity` names no model")
    thresholds: list[tuple[str, float]] = []
    for language, files in models.items():
        threshold = getattr(files, setting)
        if threshold is None:
            raise ValueError(
                f"rule set `{rule_set}` needs perplexity.{language}.{setting}; `altiplano data perplexity-bounds` "
                "prints those of a measured corpus"
            )
        thresholds.append((language, threshold))
    return (
        Rule(
            f"{rule_set}.perplexity",
            "perplexity",
            "at most",
            max(threshold for _, threshold in thresholds),
            f"perplexity.LANGUAGE.{setting}; the division is that of Wenzek et al. 2020, arXiv:1911.00359",
            only_languages=tuple(models),
            by_language=tuple(thresholds),
        ),
    )
