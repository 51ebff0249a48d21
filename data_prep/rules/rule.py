"""A rule: a threshold on a signal, for deciding and explaining."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data_prep.languages import is_one_of, meant_for

Comparison = Literal["at least", "at most", "one of"]


@dataclass(frozen=True)
class Rule:
    """A document passes when `signal` is `comparison` `threshold`.

    Attributes:
        name: `<rule set>.<property>`, the reason given for a dropped document.
        signal: column of the signals, see `signals/table.py`.
        threshold: a number, or for "one of" the allowed values; an empty tuple allows everything.
        source: paper and section, or code, of the threshold.
        only_languages: languages that the rule applies to; empty: all.
        not_languages: languages that the rule does not apply to.
        by_language: thresholds of languages that have their own.
        missing_passes: a document without the signal passes.
    """

    name: str
    signal: str
    comparison: Comparison
    threshold: float | tuple[str, ...]
    source: str
    only_languages: tuple[str, ...] = ()
    not_languages: tuple[str, ...] = ()
    by_language: tuple[tuple[str, float], ...] = ()
    missing_passes: bool = False

    @property
    def signals(self) -> tuple[str, ...]:
        """Signals that `fails` reads, beside the language."""
        return (self.signal,)

    def applies_to(self, languages: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return for each language whether the rule applies to it."""
        applies = np.ones(len(languages), dtype=bool)
        if self.only_languages:
            applies &= _is_one_of(languages, self.only_languages)
        if self.not_languages:
            applies &= ~_is_one_of(languages, self.not_languages)
        return applies

    def fails(self, signals: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
        """Return for each document whether the rule applies and it does not pass; by default, NaN does not pass."""
        values = signals[self.signal]
        if self.comparison == "one of":
            assert isinstance(self.threshold, tuple)
            passes = _is_one_of(values, self.threshold) if self.threshold else np.ones(len(values), dtype=bool)
        else:
            thresholds = self._thresholds(signals["language"])
            passes = values >= thresholds if self.comparison == "at least" else values <= thresholds
            if self.missing_passes:
                passes |= np.isnan(values)
        return ~passes & self.applies_to(signals["language"])

    def _thresholds(self, languages: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        thresholds = np.full(len(languages), self.threshold, dtype=np.float64)
        if self.by_language:
            own = dict(self.by_language)
            names = languages.astype(str)
            for name in np.unique(names).tolist():
                language = meant_for(name, own)
                if language is not None:
                    thresholds[names == name] = own[language]
        return thresholds

    def describe(self, language: str | None = None) -> str:
        """Format the rule as `mean_word_length at least 3`, with the thresholds of all languages or that of one."""
        if isinstance(self.threshold, tuple):
            return f"{self.signal} {self.comparison} {', '.join(self.threshold) or 'any'}"
        own = dict(self.by_language)
        if language is not None:
            named = meant_for(language, own)
            return f"{self.signal} {self.comparison} {self.threshold if named is None else own[named]:g}"
        others = ", ".join(f"{name} {threshold:g}" for name, threshold in own.items())
        return f"{self.signal} {self.comparison} {self.threshold:g}{f' ({others})' if others else ''}"


@dataclass(frozen=True)
class Outcome:
    """Result of a rule for a document."""

    rule: Rule
    value: float | str | None
    applies: bool
    passes: bool


def explain(signals: Mapping[str, Any], rules: Collection[Rule]) -> tuple[Outcome, ...]:
    """Apply each rule to a document, given as a row of signals."""
    asked = {name for rule in rules for name in rule.signals} | {"language"}
    row = {name: _as_array(_value_of(signals, name)) for name in asked}
    return tuple(
        Outcome(
            rule,
            _value_of(signals, rule.signal),
            bool(rule.applies_to(row["language"])[0]),
            not rule.fails(row)[0],
        )
        for rule in rules
    )


def _value_of(signals: Mapping[str, Any], name: str) -> Any:
    """Return a signal of a row, or an entry of one: `scores.educational`."""
    if name in signals:
        return signals[name]
    column, _, key = name.partition(".")
    return dict(signals[column] or ()).get(key)


def _as_array(value: Any) -> npt.NDArray[Any]:
    return np.array([np.nan if value is None else value], dtype=object if isinstance(value, bytes) else None)


def shown(value: object) -> str:
    """Format a signal: four digits, thousands separated."""
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _is_one_of(values: npt.NDArray[Any], allowed: Collection[str]) -> npt.NDArray[np.bool_]:
    names = values.astype(str)
    found = [name for name in np.unique(names).tolist() if is_one_of(name, allowed)]
    return np.isin(names, np.array(found, dtype=str))
