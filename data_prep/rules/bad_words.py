"""The rule on lists of words; the lists are settings, see `data_prep/signals/bad_words.py`. It does not apply to
languages without a list."""

from __future__ import annotations

from collections.abc import Collection

from data_prep.rules.rule import Rule


def rules_of(languages: Collection[str]) -> tuple[Rule, ...]:
    """Return the rule.

    Args:
        languages: those that have a list.

    Raises:
        ValueError: there is none.
    """
    if not languages:
        raise ValueError("rule set `bad_words` needs lists: name them in bad_words, by language")
    source = "Raffel et al. 2020 (C4), JMLR 21, section 2.2; by language: Xue et al. 2021 (mC4), arXiv:2010.11934"
    return (Rule("bad_words.count", "bad_word_count", "at most", 0, source, only_languages=tuple(languages)),)
