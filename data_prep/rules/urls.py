"""Rules on web addresses; the lists are settings, see `UrlConfig`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from data_prep.rules.rule import Rule

if TYPE_CHECKING:
    from data_prep.config import UrlConfig
    from data_prep.signals.urls import UrlMatches

PAGES_PER_DOMAIN = "urls.pages_per_domain"
"""Name of the reason against a page of a domain that has more."""
_REFINED_WEB = "Penedo et al. 2023 (RefinedWeb), arXiv:2306.01116, appendix G.1"


def rules_of(config: UrlConfig) -> tuple[Rule, ...]:
    """Return a rule for each kind of list that there is.

    Raises:
        ValueError: there is neither a list nor a number of pages of a domain.

    Allowed sites alone are BLOOM's pseudo-crawl: Laurençon et al. 2022, arXiv:2303.03915, section 2.3.
    """
    if not config.has_lists and config.pages_per_domain is None:
        raise ValueError(
            "rule set `urls` needs lists: name them in urls.block, urls.allow, urls.words or others, or set "
            "urls.pages_per_domain"
        )
    return list_rules(config)


def list_rules(config: UrlConfig) -> tuple[Rule, ...]:
    """Return the rules on lists; the number of pages of a domain is not one of them, see `dedup/domains.py`."""
    rules = []
    if config.block:
        rules.append(Rule("urls.blocked", "url_blocked", "at most", 0, _REFINED_WEB))
    if config.allow:
        source = "Laurençon et al. 2022 (ROOTS), arXiv:2303.03915, section 2.3"
        rules.append(Rule("urls.allowed", "url_allowed", "at least", 1, source))
    if config.words or config.subwords:
        rules.append(Rule("urls.words", "url_words", "at most", 0, _REFINED_WEB))
    if config.soft_words:
        rules.append(Rule("urls.soft_words", "url_soft_words", "at most", 1, _REFINED_WEB))
    return tuple(rules)


def reason_against(matches: UrlMatches, rules: Sequence[Rule]) -> str | None:
    """Return the name of the first of `list_rules` that an address does not pass."""
    for rule in rules:
        value, threshold = getattr(matches, rule.signal.removeprefix("url_")), rule.threshold
        assert isinstance(threshold, (int, float))
        if value > threshold if rule.comparison == "at most" else value < threshold:
            return rule.name
    return None
