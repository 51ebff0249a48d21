"""Each rule at its threshold, and texts whose verdict follows from the papers by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.config import (
    DataConfig,
    LanguageConfig,
    LanguageModelConfig,
    QualityConfig,
    ScoreConfig,
    SourceConfig,
    UrlConfig,
)
from data_prep.rules import (
    PUBLISHED_RULE_SETS,
    RULE_SETS,
    Rule,
    bad_words,
    code,
    decontamination,
    explain,
    gopher,
    language,
    perplexity,
    quality,
    rules_named,
    rules_of_source,
    sampling,
    scores,
    urls,
)
from data_prep.rules.decide import failures
from data_prep.signals.table import SIGNALS
from data_prep.signals.text_statistics import measure_string

PROSE = (
    "The river had risen in the night, and by morning the lower fields were under water. Farmers moved their cattle to "
    "higher ground while children watched from the windows of the school. Nobody could remember such a flood so early "
    "in the year; even the oldest woman of the village, who kept a record of every winter, only shook her head."
)

# The papers' numbers again, independent of the tables in the code: (rule, value that passes, value that fails)
GOPHER = [
    ("gopher.minimum_words", 50, 49),
    ("gopher.maximum_words", 100_000, 100_001),
    ("gopher.mean_word_length", 3.0, 2.99),
    ("gopher.maximum_mean_word_length", 10.0, 10.01),
    ("gopher.hash_symbols", 0.1, 0.11),
    ("gopher.ellipses", 0.1, 0.11),
    ("gopher.bullet_lines", 0.9, 0.91),
    ("gopher.ellipsis_lines", 0.3, 0.31),
    ("gopher.alphabetic_words", 0.8, 0.79),
    ("gopher.stop_words", 2, 1),
    ("gopher.duplicate_lines", 0.30, 0.31),
    ("gopher.duplicate_paragraphs", 0.30, 0.31),
    ("gopher.duplicate_line_characters", 0.20, 0.21),
    ("gopher.duplicate_paragraph_characters", 0.20, 0.21),
    ("gopher.top_2_gram", 0.20, 0.21),
    ("gopher.top_3_gram", 0.18, 0.19),
    ("gopher.top_4_gram", 0.16, 0.17),
    ("gopher.duplicate_5_gram", 0.15, 0.16),
    ("gopher.duplicate_6_gram", 0.14, 0.15),
    ("gopher.duplicate_7_gram", 0.13, 0.14),
    ("gopher.duplicate_8_gram", 0.12, 0.13),
    ("gopher.duplicate_9_gram", 0.11, 0.12),
    ("gopher.duplicate_10_gram", 0.10, 0.11),
]
CODE = [
    ("code.longest_line", 1000, 1001),
    ("code.mean_line", 100.0, 100.1),
    ("code.alphanumeric_characters", 0.25, 0.24),
    ("code.alphabetic_characters_per_token", 1.5, 1.49),
]
WEB = [
    ("c4_paper.curly_brackets", 0, 1),
    ("c4_paper.lorem_ipsum", 0, 1),
    ("c4_paper.sentences", 5, 4),
    ("c4_dataset.curly_brackets", 0, 1),
    ("c4_dataset.lorem_ipsum", 0, 1),
    ("c4_dataset.sentences", 3, 2),
    ("mc4.long_lines", 3, 2),
    ("fineweb.terminal_lines", 0.12, 0.119),
    ("fineweb.short_lines", 0.67, 0.671),
    ("fineweb.duplicate_line_characters", 0.01, 0.011),
    ("fineweb.line_feeds", 0.3, 0.31),
    ("ccnet.minimum_characters", 300, 299),
    ("ccnet.language_probability", 0.5, 0.49),
]
# (rule, language, value that passes, value that does not); xx has no own parameters
ROOTS = [
    ("roots.minimum_words", "en", 20, 19),
    ("roots.minimum_words", "xx", 10, 9),
    ("roots.minimum_words", "zh", 1, 0),
    ("roots.maximum_words", "en", 100_000, 100_001),
    ("roots.maximum_words", "zh", 1_000_000, 1_000_001),
    ("roots.character_repetition", "en", 0.106, 0.107),
    ("roots.character_repetition", "xx", 0.2, 0.21),
    ("roots.word_repetition", "en", 0.19, 0.2),
    ("roots.word_repetition", "xx", 0.3, 0.31),
    ("roots.word_repetition", "zh", 0.96, 0.97),
    ("roots.special_characters", "en", 0.4, 0.41),
    ("roots.special_characters", "zh", 0.3, 0.31),
    ("roots.stop_words", "en", 0.3, 0.29),
    ("roots.stop_words", "xx", 0.1, 0.09),
    ("roots.stop_words", "zh", 0.1691, 0.169),
    ("roots.flagged_words", "en", 0.01, 0.011),
    ("roots.flagged_words", "xx", 0.1, 0.11),
    ("roots.flagged_words", "zh", 0.001, 0.002),
    ("roots.language_probability", "en", 0.8, 0.79),
    ("roots.language_probability", "xx", 0.7, 0.69),
    ("roots.language_probability", "zh", 0.85, 0.84),
]
ALL_RULES = tuple(rule for rules in PUBLISHED_RULE_SETS.values() for rule in rules)


def fails(rule: Rule, value: Any, spoken: str = "en") -> bool:
    signals = {rule.signal: np.array([value]), "language": np.array([spoken])}
    return bool(rule.fails(signals)[0])


def failed_names(signals: Mapping[str, Any], rules: tuple[Rule, ...]) -> list[str]:
    arrays = {name: np.array([value]) for name, value in signals.items()}
    return [rule.name for rule, failed in zip(rules, failures(arrays, rules)[0], strict=True) if failed]


@pytest.mark.parametrize(("name", "passing", "failing"), GOPHER + CODE + WEB)
def test_each_threshold_lies_where_its_source_has_it(name: str, passing: float, failing: float) -> None:
    rule = {rule.name: rule for rule in ALL_RULES}[name]
    assert rule.threshold == passing
    assert not fails(rule, passing)
    assert fails(rule, failing)
    assert fails(rule, float("nan"))


@pytest.mark.parametrize(("name", "spoken", "passing", "failing"), ROOTS)
def test_each_threshold_of_roots_is_that_of_the_language(
    name: str, spoken: str, passing: float, failing: float
) -> None:
    rule = {rule.name: rule for rule in ALL_RULES}[name]
    assert not fails(rule, passing, spoken)
    assert fails(rule, failing, spoken)
    assert rule.describe(spoken).endswith(f" {passing:g}")


SAMPLED = {
    "output": "out",
    "sources": [{"name": "web", "kind": "jsonl", "paths": ["web.jsonl"], "rules": ["sampled"]}],
    "scores": {"a": {"field": "score"}},
    "sampling": {"a": {"score": "a", "shares": [[0, 0.5]]}},
}


def test_every_rule_is_tested_named_once_and_has_a_signal_and_a_source() -> None:
    model = LanguageModelConfig(model=Path("m"), tokenizer=Path("t"), head=200, middle=400)
    configured = (
        *language.rules_of(LanguageConfig()),
        *quality.rules_of(QualityConfig(model=Path("q"))),
        *urls.rules_of(UrlConfig(block=(Path("b"),), allow=(Path("a"),), words=Path("w"), soft_words=Path("s"))),
        *bad_words.rules_of(["en"]),
        *scores.rules_of({"a": ScoreConfig(field="score", minimum=3, maximum=9)}),
        *sampling.rules_of(DataConfig.model_validate(SAMPLED)),
        *(rule for name in decontamination.NAMES for rule in decontamination.rules_of(name, ["mmlu"])),
        *(rule for name in perplexity.BUCKETS for rule in perplexity.rules_of(name, {"en": model})),
    )
    rules = (*ALL_RULES, *configured)
    assert {rule.name for rule in ALL_RULES} == {row[0] for row in (*GOPHER, *CODE, *WEB, *ROOTS)}
    assert RULE_SETS.keys() - PUBLISHED_RULE_SETS.keys() == {
        *("language", "quality", "urls", "bad_words", "scores", "sampled"),
        *decontamination.NAMES,
        *perplexity.BUCKETS,
    }
    assert len({rule.name for rule in rules}) == len(rules)
    for rule in rules:
        assert {name.partition(".")[0] for name in rule.signals} <= set(SIGNALS.names)
        assert rule.source


def test_prose_passes_and_each_fault_is_named() -> None:
    english = {"language": "en"}
    assert failed_names(measure_string(PROSE) | english, gopher.RULES) == []
    assert failed_names(measure_string(PROSE[:100]) | english, gopher.RULES) == ["gopher.minimum_words"]
    listed = "\n".join(f"• {line}" for line in PROSE.split(","))
    assert failed_names(measure_string(listed) | english, gopher.RULES) == ["gopher.bullet_lines"]
    thrice = failed_names(measure_string("\n\n".join([PROSE] * 3)) | english, gopher.RULES)
    assert set(thrice) == {
        "gopher.duplicate_lines",
        "gopher.duplicate_paragraphs",
        "gopher.duplicate_line_characters",
        "gopher.duplicate_paragraph_characters",
        *(f"gopher.duplicate_{n}_gram" for n in range(5, 11)),
    }


def test_stop_words_are_asked_of_english_only() -> None:
    rule = next(rule for rule in gopher.RULES if rule.name == "gopher.stop_words")
    assert fails(rule, 0, "en")
    assert not fails(rule, 0, "fr")


def test_words_that_are_letters_are_not_asked_for_their_length() -> None:
    rule = next(rule for rule in gopher.RULES if rule.name == "gopher.mean_word_length")
    assert fails(rule, 1.0, "en")
    assert not fails(rule, 1.0, "zh")
    assert not fails(rule, 1.0, "th")
    assert fails(rule, 1.0, "ko")


def test_minified_code_is_dropped_and_a_function_is_not() -> None:
    function = "def area(radius):\n    return 3.14 * radius ** 2\n\n\nprint(area(2))\n"
    assert failed_names(measure_string(function) | {"language": "en"}, code.RULES) == []
    minified = "var a=1;" * 200
    assert failed_names(measure_string(minified) | {"language": "en"}, code.RULES) == [
        "code.longest_line",
        "code.mean_line",
        "code.alphabetic_characters_per_token",
    ]
    assert "code.alphanumeric_characters" in failed_names(
        measure_string("{ } ( ) [ ] ;; == a\n") | {"language": "en"}, code.RULES
    )


def test_language_rules_follow_the_configuration() -> None:
    probability, kept = language.rules_of(LanguageConfig(minimum_probability=0.5, keep=("de", "fr")))
    assert not fails(probability, 0.5)
    assert fails(probability, 0.49)
    assert fails(kept, "en", "en")
    assert not fails(kept, "fr", "fr")
    _, all_kept = language.rules_of(LanguageConfig())
    assert not fails(all_kept, "xx", "xx")


def test_buckets_of_perplexity_have_bounds_by_language() -> None:
    english = LanguageModelConfig(model=Path("m"), tokenizer=Path("t"), head=200, middle=400)
    german = LanguageModelConfig(model=Path("m"), tokenizer=Path("t"), head=300)
    (head,) = perplexity.rules_of("ccnet_head", {"en": english, "de": german})
    assert [fails(head, value, "en") for value in (200, 200.1, np.nan)] == [False, True, True]
    assert [fails(head, value, "de") for value in (300, 300.1)] == [False, True]
    assert not fails(head, np.nan, "fr")
    (middle,) = perplexity.rules_of("ccnet_middle", {"en": english})
    assert [fails(middle, value, "en") for value in (400, 400.1)] == [False, True]
    with pytest.raises(ValueError, match=r"rule set `ccnet_middle` needs perplexity\.de\.middle; .*perplexity-bounds"):
        perplexity.rules_of("ccnet_middle", {"en": english, "de": german})
    with pytest.raises(ValueError, match="rule set `ccnet_head` needs perplexity, and `perplexity` names no model"):
        perplexity.rules_of("ccnet_head", {})
    with pytest.raises(ValueError, match=r"rule set `quality` needs a classifier, and quality\.model names none"):
        quality.rules_of(QualityConfig())


def test_a_source_is_asked_its_own_rules_in_a_fixed_order() -> None:
    prose = SourceConfig(name="prose", kind="text", paths=("x",), rules=("gopher", "language"))
    programs = SourceConfig(name="programs", kind="python", paths=("y",), rules=("code",))
    free = SourceConfig(name="free", kind="text", paths=("z",), rules=())
    config = DataConfig(output=Path("out"), sources=(prose, programs, free))
    sets = [rule.name.split(".")[0] for rule in rules_of_source(config, "prose")]
    assert sets == ["language"] * 2 + ["gopher"] * len(gopher.RULES)
    assert rules_of_source(config, "programs") == code.RULES
    assert rules_of_source(config, "free") == ()
    with pytest.raises(ValueError, match="source 'web' is not in the configuration; sources are prose, programs, free"):
        rules_of_source(config, "web")
    with pytest.raises(ValueError, match="rule set 'gofer' is unknown; did you mean 'gopher'\\? known are "):
        rules_named(config, ["gofer"])


def test_explain_says_value_threshold_and_verdict() -> None:
    outcomes = explain(measure_string("trop court") | {"language": "fr"}, gopher.RULES)
    by_name = {outcome.rule.name: outcome for outcome in outcomes}
    words = by_name["gopher.minimum_words"]
    assert (words.value, words.applies, words.passes) == (2.0, True, False)
    assert words.rule.describe() == "word_count at least 50"
    stop_words = by_name["gopher.stop_words"]
    assert (stop_words.applies, stop_words.passes) == (False, True)
