"""Verdicts: every reason in order, and counts that balance."""

from __future__ import annotations

import numpy as np

from data_prep.rules import Rule
from data_prep.rules.decide import count_verdicts, judge
from data_prep.run.documents import VERDICTS

RULES = (
    Rule("length.words", "word_count", "at least", 10, "this test"),
    Rule("length.lines", "line_count", "at most", 3, "this test"),
)
SIGNALS = {
    "id": np.array(["s-00000/0000000", "s-00000/0000001", "s-00000/0000002", "s-00000/0000003"], dtype=object),
    "language": np.array(["en", "de", "en", "fr"], dtype=object),
    "word_count": np.array([20, 5, 20, 5]),
    "line_count": np.array([1, 9, 1, 1]),
}
REMOVALS = {
    "s-00000/0000002": {"kind": "exact", "duplicate_of": "s-00000/0000000"},
    "s-00000/0000003": {"kind": "near", "duplicate_of": "other-00000/0000000"},
}


def test_a_verdict_holds_every_reason_in_order() -> None:
    verdicts = judge(SIGNALS, RULES, REMOVALS, "s")
    assert verdicts.schema == VERDICTS
    assert verdicts.column("reasons").to_pylist() == [
        [],
        ["length.words", "length.lines"],
        ["duplicate.exact"],
        ["length.words", "duplicate.near"],
    ]
    assert verdicts.column("kept").to_pylist() == [True, False, False, False]
    assert verdicts.column("duplicate_of").to_pylist() == [None, None, "s-00000/0000000", "other-00000/0000000"]


def test_documents_are_kept_and_dropped_by_their_first_reason() -> None:
    counts = count_verdicts(judge(SIGNALS, RULES, REMOVALS, "s"))
    assert counts == {"documents": 4, "kept": 1, "dropped:length.words": 2, "dropped:duplicate.exact": 1}


def test_no_documents_and_no_rules_are_no_fault() -> None:
    empty = {name: column[:0] for name, column in SIGNALS.items()}
    assert count_verdicts(judge(empty, RULES, {}, "s")) == {"documents": 0, "kept": 0}
    assert count_verdicts(judge(SIGNALS, (), {}, "s")) == {"documents": 4, "kept": 4}
