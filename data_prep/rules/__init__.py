"""Thresholds over signals: what a document must show to be kept, each with its source."""

from data_prep.config import DataConfig
from data_prep.rules import code, gopher, language
from data_prep.rules.rule import Outcome, Rule, explain


def rules_of_source(config: DataConfig, source: str) -> tuple[Rule, ...]:
    """The rules that documents of a source must pass, in the order in which reasons are listed.

    Raises:
        ValueError: the configuration has no such source.
    """
    rule_sets = {"language": language.rules_of(config.language), "gopher": gopher.RULES, "code": code.RULES}
    for candidate in config.sources:
        if candidate.name == source:
            return tuple(rule for name, rules in rule_sets.items() if name in candidate.rules for rule in rules)
    names = ", ".join(candidate.name for candidate in config.sources)
    raise ValueError(f"source {source!r} is not in the configuration; sources are {names}")


__all__ = ["Outcome", "Rule", "explain", "rules_of_source"]
