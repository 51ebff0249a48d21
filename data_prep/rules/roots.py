"""The filters of ROOTS (OSCAR part), with its parameters by language.

Source: Laurençon et al. 2022, arXiv:2303.03915; parameters in `signals/roots/parameters.py`. Perplexity is omitted. A
language without its own parameters has the default ones; stop words and flagged words are measured only if there is a
list.
"""

from __future__ import annotations

from data_prep.rules.rule import Comparison, Rule
from data_prep.signals.roots.parameters import DEFAULT, PARAMETERS

_SOURCE = "Laurençon et al. 2022, arXiv:2303.03915, parameters_filtering.py"


def _rule(name: str, signal: str, comparison: Comparison, parameter: str) -> Rule:
    default = getattr(DEFAULT, parameter)
    own = {language: getattr(parameters, parameter) for language, parameters in PARAMETERS.items()}
    differing = tuple((language, value) for language, value in own.items() if value != default)
    return Rule(f"roots.{name}", signal, comparison, default, _SOURCE, by_language=differing)


RULES = (
    _rule("minimum_words", "roots_word_count", "at least", "minimum_words"),
    _rule("maximum_words", "roots_word_count", "at most", "maximum_words"),
    _rule("character_repetition", "roots_character_repetition", "at most", "character_repetition"),
    _rule("word_repetition", "roots_word_repetition", "at most", "word_repetition"),
    _rule("special_characters", "roots_special_character_share", "at most", "special_characters"),
    _rule("stop_words", "roots_stop_word_share", "at least", "stop_words"),
    _rule("flagged_words", "roots_flagged_word_share", "at most", "flagged_words"),
    _rule("language_probability", "language_probability", "at least", "language_probability"),
)
"""Rules in the order of ROOTS."""
