"""Rules on the identified language; their thresholds are settings, see `LanguageConfig`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_prep.rules.rule import Rule

if TYPE_CHECKING:
    from data_prep.config import LanguageConfig


def rules_of(config: LanguageConfig) -> tuple[Rule, ...]:
    """Return the rules with the configured threshold and languages."""
    return (
        Rule(
            "language.probability",
            "language_probability",
            "at least",
            config.minimum_probability,
            "language.minimum_probability; by default FineWeb's: Penedo et al. 2024, arXiv:2406.17557, section 3.3",
        ),
        Rule("language.not_kept", "language", "one of", config.keep, "language.keep"),
    )
