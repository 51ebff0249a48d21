"""Our rules give datatrove's verdicts once the known differences are removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.bench.data import load
from tools.bench.verdicts import LANGUAGE, PAIRS, as_they_are, differing, reconciled

CORPUS = Path(__file__).parents[3].parent / "shared" / "data" / "corpus.jsonl.zst"
LINE = "The river rises in the hills and runs past the mill.\n"
TEXTS = [
    LINE * 30,
    "".join(f"The river number {k} rises in hill {k} and runs past mill {k}. \n" for k in range(30)),
    "".join(f"* item {k} is one that we have and want to keep\n" for k in range(40)),
    "".join(f"And then the story of day {k} broke off...\n\n" for k in range(30)),
    "# " * 40 + LINE,
    "short\n" * 3 + "a line\nanother\n" + LINE,
    "-- -- -- ** ** -- the be to of -- -- --",
]
OWN = {
    "gopher.bullet_lines": "more signs are bullets with us: * and the geometric ones; the paper says `bullet point`",
    "gopher.ellipsis_lines": "datatrove counts blank lines among all lines",
    "c4_dataset.sentences": "datatrove asks spaCy where sentences end, we have rules",
}
"""Rules of ours that keep differing, and why."""
ASKED = [pair for pair in PAIRS if not set(pair.ours) & OWN.keys()]


def test_made_up_texts_get_the_same_verdicts() -> None:
    dropped = set()
    for pair, drops in zip(ASKED, reconciled(TEXTS, ASKED), strict=True):
        assert differing(drops) == ([], []), pair
        dropped |= {pair.ours for fails in drops[0] if fails}
    assert len(dropped) > 12


def test_the_known_differences_are_seen_without_reconciliation() -> None:
    pytest.importorskip("spacy")
    pairs = [pair for pair in ASKED if "top_4" in pair.ours[0] or "terminal" in pair.ours[0]]
    (top, terminal) = as_they_are(["An evil mind is a great comfort.", "It ends here. \n" * 3], pairs)
    assert differing(top) == ([], [0])  # an n-gram that occurs once
    assert differing(terminal) == ([], [1])  # a blank after the full stop


@pytest.mark.skipif(not CORPUS.is_file(), reason=f"no corpus at {CORPUS.name}")
def test_real_documents_get_the_same_verdicts() -> None:
    texts = [text for text, language in load(CORPUS, 4) if language == LANGUAGE and text.strip()]
    texts = [text for text in texts if len(text) < 20_000]
    assert len(texts) > 300
    for pair, drops in zip(ASKED, reconciled(texts, ASKED), strict=True):
        assert differing(drops) == ([], []), pair
