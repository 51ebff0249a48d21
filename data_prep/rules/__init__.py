"""Rules: thresholds on signals, each with its source."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from data_prep.rules import (
    bad_words,
    c4,
    ccnet,
    code,
    decontamination,
    fineweb,
    gopher,
    language,
    perplexity,
    quality,
    roots,
    sampling,
    scores,
    urls,
)
from data_prep.rules.rule import Outcome, Rule, explain
from foundation.configuration import known_name

if TYPE_CHECKING:
    from data_prep.config import DataConfig

RULE_SETS: dict[str, tuple[Rule, ...] | Callable[[DataConfig], tuple[Rule, ...]]] = {
    "language": lambda config: language.rules_of(config.language),
    "gopher": gopher.RULES,
    "c4_paper": c4.PAPER_RULES,
    "c4_dataset": c4.DATASET_RULES,
    "mc4": c4.MC4_RULES,
    "fineweb": fineweb.RULES,
    "roots": roots.RULES,
    "ccnet": ccnet.RULES,
    "code": code.RULES,
    "ccnet_head": lambda config: perplexity.rules_of("ccnet_head", config.perplexity),
    "ccnet_middle": lambda config: perplexity.rules_of("ccnet_middle", config.perplexity),
    "quality": lambda config: quality.rules_of(config.quality),
    "scores": lambda config: scores.rules_of(config.scores),
    "sampled": sampling.rules_of,
    "urls": lambda config: urls.rules_of(config.urls),
    "bad_words": lambda config: bad_words.rules_of(config.bad_words),
    "decontamination_gpt3": lambda config: decontamination.rules_of("decontamination_gpt3", config.decontamination),
    "decontamination_palm": lambda config: decontamination.rules_of("decontamination_palm", config.decontamination),
    "decontamination_llama2": lambda config: decontamination.rules_of("decontamination_llama2", config.decontamination),
}
"""Rule sets by the name that a source's `rules` gives, in the order in which reasons are listed. A function makes the
rules whose thresholds are settings."""

PUBLISHED_RULE_SETS = {name: rules for name, rules in RULE_SETS.items() if isinstance(rules, tuple)}
"""Rule sets that do not depend on the configuration."""


def known_rule_set(name: str) -> str:
    """Return the name itself.

    Raises:
        ValueError: there is no such rule set; suggests the closest one.
    """
    return known_name(name, RULE_SETS, "rule set")


def rules_named(config: DataConfig, names: Collection[str]) -> tuple[Rule, ...]:
    """Return the rules of some sets, in the order of `RULE_SETS`.

    Raises:
        ValueError: there is no such set, or the configuration lacks the model that it needs.
    """
    for name in names:
        known_rule_set(name)
    chosen = [rules for name, rules in RULE_SETS.items() if name in names]
    return tuple(rule for rules in chosen for rule in (rules if isinstance(rules, tuple) else rules(config)))


def rules_of_source(config: DataConfig, source: str) -> tuple[Rule, ...]:
    """Return the rules that documents of a source must pass, in the order in which reasons are listed.

    Raises:
        ValueError: the configuration has no such source.
    """
    return rules_named(config, rule_sets_of_source(config, source))


def rule_sets_of_source(config: DataConfig, source: str) -> tuple[str, ...]:
    """Return the names of the rule sets of a source.

    Raises:
        ValueError: the configuration has no such source.
    """
    for candidate in config.sources:
        if candidate.name == source:
            return candidate.rules
    names = ", ".join(candidate.name for candidate in config.sources)
    raise ValueError(f"source {source!r} is not in the configuration; sources are {names}")


def capped_sources(config: DataConfig) -> tuple[str, ...]:
    """Return the sources of whose registered domains only some pages are kept."""
    if config.urls.pages_per_domain is None:
        return ()
    return tuple(source.name for source in config.sources if "urls" in source.rules)


__all__ = [
    "PUBLISHED_RULE_SETS",
    "RULE_SETS",
    "Outcome",
    "Rule",
    "capped_sources",
    "explain",
    "known_rule_set",
    "rule_sets_of_source",
    "rules_named",
    "rules_of_source",
]
