"""Rules on web addresses; the lists are settings, see `UrlConfig`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_prep.rules.rule import Rule

if TYPE_CHECKING:
    from data_prep.config import UrlConfig

_REFINED_WEB = "Penedo et al. 2023 (RefinedWeb), arXiv:2306.01116, appendix G.1"


def rules_of(config: UrlConfig) -> tuple[Rule, ...]:
    """Return a rule for each kind of list that there is.

    Raises:
        ValueError: there is no list.

    Allowed sites alone are BLOOM's pseudo-crawl: Laurençon et al. 2022, arXiv:2303.03915, section 2.3.
    """
    if not config.has_lists:
        raise ValueError("rule set `urls` needs lists: name them in urls.block, urls.allow, urls.words or others")
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
