"""Gopher's quality and repetition rules.

Source: Rae et al. 2021, arXiv:2112.11446, appendix A.1.1: "Quality Filtering" and "Repetition Removal" with table A1.
Variant: the paper's numbers, mean (not median) word length; `signals/text_statistics.py` defines words, lines and
repeats.

The paper filters English. Two kinds of rules do not apply to other languages:

- the stop words are English, so that every French page would be dropped;
- in scripts without spaces (`UNSPACED_LANGUAGES`) words have other lengths (Chinese ones have one or two letters); and
  without a model that divides them (`UNDIVIDED_LANGUAGES`) the n-grams of the paper are not measured.
"""

from __future__ import annotations

from data_prep.kernels.characters import UNDIVIDED_LANGUAGES, UNSPACED_LANGUAGES
from data_prep.rules.rule import Rule

_QUALITY = "Rae et al. 2021, arXiv:2112.11446, appendix A.1.1, Quality Filtering"
_REPETITION = "Rae et al. 2021, arXiv:2112.11446, appendix A.1.1, Repetition Removal, table A1"

_QUALITY_RULES = (
    Rule("gopher.minimum_words", "word_count", "at least", 50, _QUALITY),
    Rule("gopher.maximum_words", "word_count", "at most", 100_000, _QUALITY),
    Rule("gopher.mean_word_length", "mean_word_length", "at least", 3, _QUALITY, not_languages=UNSPACED_LANGUAGES),
    Rule(
        "gopher.maximum_mean_word_length",
        "mean_word_length",
        "at most",
        10,
        _QUALITY,
        not_languages=UNSPACED_LANGUAGES,
    ),
    Rule("gopher.hash_symbols", "hash_symbols_per_word", "at most", 0.1, _QUALITY),
    Rule("gopher.ellipses", "ellipses_per_word", "at most", 0.1, _QUALITY),
    Rule("gopher.bullet_lines", "bullet_line_share", "at most", 0.9, _QUALITY),
    Rule("gopher.ellipsis_lines", "ellipsis_line_share", "at most", 0.3, _QUALITY),
    Rule("gopher.alphabetic_words", "alphabetic_word_share", "at least", 0.8, _QUALITY),
    Rule("gopher.stop_words", "distinct_stop_words", "at least", 2, _QUALITY, only_languages=("en",)),
)

_LINE_RULES = tuple(
    Rule(f"gopher.{signal.removesuffix('_share')}s", signal, "at most", threshold, _REPETITION)
    for signal, threshold in (
        ("duplicate_line_share", 0.30),
        ("duplicate_paragraph_share", 0.30),
        ("duplicate_line_character_share", 0.20),
        ("duplicate_paragraph_character_share", 0.20),
    )
)

_N_GRAM_RULES = tuple(
    Rule(
        f"gopher.{kind}_{n}_gram",
        f"{kind}_{n}_gram_character_share",
        "at most",
        threshold,
        _REPETITION,
        not_languages=UNDIVIDED_LANGUAGES,
    )
    for kind, thresholds in (
        ("top", {2: 0.20, 3: 0.18, 4: 0.16}),
        ("duplicate", {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}),
    )
    for n, threshold in thresholds.items()
)

RULES = (*_QUALITY_RULES, *_LINE_RULES, *_N_GRAM_RULES)
"""In the order in which reasons are listed."""
