"""Rules on items of evaluation sets in documents; the sets are settings, see `EvaluationSetConfig`."""

from __future__ import annotations

import math
from collections.abc import Collection

from data_prep.rules.rule import Rule

_RULES = {
    "decontamination_gpt3": Rule(
        "decontamination_gpt3.collisions",
        "evaluation_collisions",
        "at most",
        0,
        "Brown et al. 2020 (GPT-3), arXiv:2005.14165, appendix C, which cuts the text around it",
    ),
    "decontamination_palm": Rule(
        "decontamination_palm.ngram_share",
        "evaluation_ngram_share",
        "at most",
        math.nextafter(0.7, 0),
        "Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, section 8",
    ),
    "decontamination_llama2": Rule(
        "decontamination_llama2.token_share",
        "evaluation_token_share",
        "at most",
        0.8,
        "Touvron et al. 2023 (Llama 2), arXiv:2307.09288, appendix A.6: dirty samples",
    ),
}
NAMES = tuple(_RULES)
"""Names of the rule sets."""


def rules_of(name: str, sets: Collection[str]) -> tuple[Rule, ...]:
    """Return the rules of a rule set.

    Args:
        sets: names of the evaluation sets.

    Raises:
        ValueError: there is none.
    """
    if not sets:
        raise ValueError(f"rule set `{name}` needs evaluation sets: name them in decontamination")
    return (_RULES[name],)
