"""Interpolated modified Kneser-Ney smoothing with dictionaries, as slow and plain as its definition."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

Gram = tuple[str, ...]


class PlainModel:
    """A model of some sentences; see the formulas in `data_prep/ngrams/smoothing.py`."""

    def __init__(
        self, sentences: Sequence[Sequence[str]], order: int, prune: Sequence[int] = (), fallback: bool = False
    ) -> None:
        self.order = order
        occurrences: list[Counter[Gram]] = [Counter() for _ in range(order + 1)]
        for sentence in sentences:
            tokens = ("<s>", *sentence, "</s>")
            for n in range(1, order + 1):
                occurrences[n].update(tokens[start : start + n] for start in range(len(tokens) - n + 1))
        del occurrences[1]["<s>",]
        self.occurrences = occurrences
        self.vocabulary = {"<unk>", *(word for (word,) in occurrences[1])}
        self.adjusted = [Counter[Gram]() for _ in range(order + 1)]
        for n in range(1, order + 1):
            extensions = Counter(gram[1:] for gram in occurrences[n + 1]) if n < order else Counter()
            for gram, count in occurrences[n].items():
                self.adjusted[n][gram] = count if n == order or gram[0] == "<s>" else extensions[gram]
        thresholds = [0, *prune, *[prune[-1] if prune else 0] * order]
        kept = zip(occurrences, thresholds, strict=False)
        self.kept = [{gram for gram, count in counts.items() if count > threshold} for counts, threshold in kept]
        self.discounts = [(0.0, 0.0, 0.0), *(self._discounts(n, fallback) for n in range(1, order + 1))]
        self.after: list[dict[Gram, list[Gram]]] = [{} for _ in range(order + 2)]
        for n in range(1, order + 1):
            for gram in self.adjusted[n]:
                self.after[n].setdefault(gram[:-1], []).append(gram)
        self._contexts: dict[Gram, tuple[int, float]] = {}

    def _discounts(self, n: int, fallback: bool) -> tuple[float, ...]:
        of = Counter(self.adjusted[n].values())
        if not of[1] * of[2] * of[3]:
            assert fallback, f"{n}-grams have no discounts: {of}"
            return 0.5, 1, 1.5
        y = of[1] / (of[1] + 2 * of[2])
        found = 1 - 2 * y * of[2] / of[1], 2 - 3 * y * of[3] / of[2], 3 - 4 * y * of[4] / of[3]
        if not all(0 < value <= k for k, value in enumerate(found, 1)):
            assert fallback, f"{n}-grams have bad discounts: {found}"
            return 0.5, 1, 1.5
        return found

    def discounted(self, gram: Gram) -> float:
        """Count of an n-gram after its discount; 0 if it is pruned."""
        n, count = len(gram), self.adjusted[len(gram)][gram]
        return count - self.discounts[n][min(count, 3) - 1] if gram in self.kept[n] else 0.0

    def of_context(self, context: Gram) -> tuple[int, float]:
        """Sum of the counts of all words after a context, and its backoff: what their discounts leave to others."""
        if context not in self._contexts:
            grams = self.after[len(context) + 1].get(context, [])
            total = sum(self.adjusted[len(context) + 1][gram] for gram in grams)
            self._contexts[context] = total, 1 - sum(map(self.discounted, grams)) / total if total else 1.0
        return self._contexts[context]

    def backoff(self, context: Gram) -> float:
        return self.of_context(context)[1]

    def probability(self, context: Gram, word: str) -> float:
        """p(word | context); the context has fewer words than the order."""
        lower = self.probability(context[1:], word) if context else 1 / len(self.vocabulary)
        total, backoff = self.of_context(context)
        share = self.discounted((*context, word)) / total if total else 0.0
        return share + backoff * lower

    def score(self, sentence: Sequence[str]) -> float:
        """log10 of the probability of a sentence and its end."""
        tokens: Gram = ("<s>", *(word if word in self.vocabulary else "<unk>" for word in sentence), "</s>")
        places = range(1, len(tokens))
        contexts = (tokens[max(0, place - self.order + 1) : place] for place in places)
        pairs = zip(places, contexts, strict=True)
        return sum(math.log10(self.probability(context, tokens[place])) for place, context in pairs)


def read_arpa(path: Path) -> dict[Gram, tuple[float, float | None]]:
    """Logarithms of probability and backoff by n-gram; None: the highest order, which has no backoff."""
    found: dict[Gram, tuple[float, float | None]] = {}
    sections = path.read_text(encoding="utf-8").split("\n\n")
    assert sections[0].startswith("\\data\\\n") and sections[-1] == "\\end\\\n"
    counts = [int(line.split("=")[1]) for line in sections[0].split("\n")[1:]]
    for n, (section, count) in enumerate(zip(sections[1:-1], counts, strict=True), 1):
        title, *lines = section.split("\n")
        assert title == f"\\{n}-grams:" and len(lines) == count
        for line in lines:
            probability, words, *backoff = line.split("\t")
            assert len(backoff) == (n < len(counts))
            gram = tuple(words.split(" "))
            assert len(gram) == n and gram not in found
            found[gram] = float(probability), float(backoff[0]) if backoff else None
    return found
