"""Parameters of the filters of ROOTS by language.

Source: Laurençon et al. 2022, arXiv:2303.03915, appendix; the numbers are those of the code,
bigscience-workshop/data-preparation at 9d05884, 01b_oscar_cleaning_and_filtering/parameters_filtering.py. Limits of
perplexity need models and are omitted.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RootsParameters:
    """Parameters of a language; the defaults are those of languages without their own in ROOTS."""

    removes_words: bool = True
    """Words with http, www, .com, href or //, and those over `longest_word` characters, are removed first."""
    longest_word: int = 25
    minimum_words: int = 10
    maximum_words: int = 100_000
    character_gram: int = 10
    character_repetition: float = 0.2
    word_gram: int = 5
    word_repetition: float = 0.3
    special_characters: float = 0.4
    stop_words: float = 0.1
    flagged_words: float = 0.1
    language_probability: float = 0.70
    pairs_joined_by: str | None = None
    """Separator of pairs of words that are also looked up in the lists."""


DEFAULT = RootsParameters(removes_words=False)

PARAMETERS = {
    "ar": RootsParameters(
        minimum_words=20,
        word_repetition=0.34,
        special_characters=0.3,
        stop_words=0.07,
        flagged_words=0.03,
        language_probability=0.81,
    ),
    "bn": RootsParameters(
        longest_word=20,
        minimum_words=33,
        character_repetition=0.13,
        word_repetition=0.21,
        special_characters=0.45,
        stop_words=0.002,
        flagged_words=0.001,
        language_probability=0.95,
    ),
    "ca": RootsParameters(
        longest_word=20,
        minimum_words=15,
        word_repetition=0.4,
        special_characters=0.25,
        stop_words=0.25,
        language_probability=0.8,
    ),
    "en": RootsParameters(
        minimum_words=20,
        character_repetition=0.106,
        word_repetition=0.19,
        stop_words=0.3,
        flagged_words=0.01,
        language_probability=0.8,
    ),
    "es": RootsParameters(
        minimum_words=16,
        character_repetition=0.14,
        word_repetition=0.25,
        special_characters=0.34,
        stop_words=0.4,
        flagged_words=0.01,
        language_probability=0.8,
    ),
    "eu": RootsParameters(
        longest_word=28, minimum_words=8, word_repetition=0.4, special_characters=0.31, stop_words=0.05
    ),
    "fr": RootsParameters(
        longest_word=45,
        minimum_words=13,
        character_repetition=0.14,
        word_repetition=0.13,
        special_characters=0.34,
        stop_words=0.27,
        flagged_words=0.008,
        language_probability=0.8,
    ),
    "hi": RootsParameters(
        minimum_words=38,
        character_repetition=0.18,
        word_repetition=0.47,
        special_characters=0.45,
        stop_words=0.01,
        flagged_words=0.005,
        language_probability=0.9,
    ),
    "id": RootsParameters(
        longest_word=30,
        minimum_words=15,
        character_repetition=0.15,
        word_repetition=0.2,
        special_characters=0.34,
        stop_words=0.15,
        flagged_words=0.01,
    ),
    "pt": RootsParameters(
        longest_word=19,
        minimum_words=19,
        character_repetition=0.25,
        word_repetition=0.98,
        special_characters=0.35,
        stop_words=0.2,
        flagged_words=0.007,
        language_probability=0.6,
    ),
    "ur": RootsParameters(
        longest_word=20,
        minimum_words=25,
        character_repetition=0.19,
        word_gram=7,
        word_repetition=0.5,
        special_characters=0.25,
        stop_words=0.01,
        flagged_words=0.025,
        language_probability=0.9,
    ),
    "vi": RootsParameters(
        minimum_words=30,
        character_repetition=0.15,
        word_repetition=0.2,
        special_characters=0.34,
        stop_words=0.08,
        flagged_words=0.005,
        language_probability=0.9,
        pairs_joined_by=" ",
    ),
    "zh": RootsParameters(
        removes_words=False,
        minimum_words=1,
        maximum_words=1_000_000,
        character_gram=3,
        word_repetition=0.96,
        special_characters=0.3,
        stop_words=0.1691,
        flagged_words=0.001,
        language_probability=0.85,
        pairs_joined_by="",
    ),
}
"""Parameters by ISO 639 code, as the language identifier names it."""
