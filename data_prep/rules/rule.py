"""One threshold over one signal; the same table decides and explains."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Comparison = Literal["at least", "at most", "one of"]


@dataclass(frozen=True)
class Rule:
    """A document passes when `signal` is `comparison` `threshold`.

    Attributes:
        name: `<rule set>.<what is asked>`, the reason that a dropped document is given.
        signal: column of `documents.SIGNALS`.
        threshold: a number, or for "one of" the allowed values, where none at all allows everything.
        source: paper and section, or the code that the number is from.
        only_languages: the rule asks only documents identified as one of these; empty: all.
        not_languages: and none of these.
    """

    name: str
    signal: str
    comparison: Comparison
    threshold: float | tuple[str, ...]
    source: str
    only_languages: tuple[str, ...] = ()
    not_languages: tuple[str, ...] = ()

    def applies_to(self, languages: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """For each language whether the rule asks its documents."""
        applies = np.ones(len(languages), dtype=bool)
        if self.only_languages:
            applies &= _is_one_of(languages, self.only_languages)
        if self.not_languages:
            applies &= ~_is_one_of(languages, self.not_languages)
        return applies

    def fails(self, signals: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
        """For each document whether it is asked and does not pass; not a number does not pass."""
        values = signals[self.signal]
        if self.comparison == "at least":
            passes = values >= self.threshold
        elif self.comparison == "at most":
            passes = values <= self.threshold
        else:
            assert isinstance(self.threshold, tuple)
            passes = _is_one_of(values, self.threshold) if self.threshold else np.ones(len(values), dtype=bool)
        return ~passes & self.applies_to(signals["language"])

    def describe(self) -> str:
        """`mean_word_length at least 3`"""
        threshold = self.threshold
        shown = ", ".join(threshold) or "any" if isinstance(threshold, tuple) else f"{threshold:g}"
        return f"{self.signal} {self.comparison} {shown}"


@dataclass(frozen=True)
class Outcome:
    """What one rule says about one document."""

    rule: Rule
    value: float | str
    applies: bool
    passes: bool


def explain(signals: Mapping[str, Any], rules: Collection[Rule]) -> tuple[Outcome, ...]:
    """What each rule says about one document, given as a row of signals."""
    row = {name: np.array([signals[name]]) for name in {rule.signal for rule in rules} | {"language"}}
    return tuple(
        Outcome(rule, signals[rule.signal], bool(rule.applies_to(row["language"])[0]), not rule.fails(row)[0])
        for rule in rules
    )


def _is_one_of(values: npt.NDArray[Any], allowed: Collection[str]) -> npt.NDArray[np.bool_]:
    return np.isin(values.astype(str), np.array(sorted(allowed), dtype=str))
