"""Thresholds over signals: what a document must show to be kept, each with its source."""

from collections.abc import Collection

from data_prep.config import DataConfig
from data_prep.rules import c4, ccnet, code, fineweb, gopher, language, perplexity, quality, roots
from data_prep.rules.rule import Outcome, Rule, explain

RULE_SETS: dict[str, tuple[Rule, ...]] = {
    "gopher": gopher.RULES,
    "c4_paper": c4.PAPER_RULES,
    "c4_dataset": c4.DATASET_RULES,
    "mc4": c4.MC4_RULES,
    "fineweb": fineweb.RULES,
    "roots": roots.RULES,
    "ccnet": ccnet.RULES,
    "code": code.RULES,
}
"""By the name that a source's `rules` gives; `language`, `quality`, `ccnet_head` and `ccnet_middle` are made of the
configuration."""


def rules_named(config: DataConfig, names: Collection[str]) -> tuple[Rule, ...]:
    """The rules of some sets, in the order of `RULE_SETS` with those of `language` before them, others after.

    Raises:
        ValueError: there is no such set, or the configuration lacks the model that it asks.
    """
    known = ("language", *RULE_SETS, *perplexity.BUCKETS, "quality")
    for name in names:
        if name not in known:
            raise ValueError(f"rule set {name!r} is unknown; there are {', '.join(known)}")
    return tuple(rule for name in known if name in names for rule in _rules_of(config, name))


def _rules_of(config: DataConfig, name: str) -> tuple[Rule, ...]:
    if name == "language":
        return language.rules_of(config.language)
    if name == "quality":
        return quality.rules_of(config.quality)
    return perplexity.rules_of(name, config.perplexity) if name in perplexity.BUCKETS else RULE_SETS[name]


def rules_of_source(config: DataConfig, source: str) -> tuple[Rule, ...]:
    """The rules that documents of a source must pass, in the order in which reasons are listed.

    Raises:
        ValueError: the configuration has no such source.
    """
    for candidate in config.sources:
        if candidate.name == source:
            return rules_named(config, candidate.rules)
    names = ", ".join(candidate.name for candidate in config.sources)
    raise ValueError(f"source {source!r} is not in the configuration; sources are {names}")


__all__ = ["RULE_SETS", "Outcome", "Rule", "explain", "rules_named", "rules_of_source"]
