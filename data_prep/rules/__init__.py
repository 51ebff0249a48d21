"""Thresholds over signals: what a document must show to be kept, each with its source."""

from collections.abc import Collection

from data_prep.config import DataConfig
from data_prep.rules import c4, ccnet, code, fineweb, gopher, language, quality, roots
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
"""By the name that a source's `rules` gives; `language` and `quality` are two more, made of the
configuration."""


def rules_named(config: DataConfig, names: Collection[str]) -> tuple[Rule, ...]:
    """The rules of some sets, those of `language` first and then in the order of `RULE_SETS`.

    Raises:
        ValueError: there is no such set.
    """
    known = {"language": language.rules_of(config.language), **RULE_SETS, "quality": quality.rules_of(config.quality)}
    if "quality" in names and config.quality.model is None:
        raise ValueError("rule set quality asks a classifier, and quality.model names none")
    for name in names:
        if name not in known:
            raise ValueError(f"rule set {name!r} is unknown; there are {', '.join(known)}")
    return tuple(rule for name, rules in known.items() if name in names for rule in rules)


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
