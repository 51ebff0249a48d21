"""n-gram models beside the plain definition, beside KenLM, and beside what its `lmplz` is known to write."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import kenlm
import numpy as np
import pytest

from data_prep.ngrams import model as model_module
from data_prep.ngrams import sorting
from data_prep.ngrams.counting import VocabularyError
from data_prep.ngrams.model import Summary, estimate
from data_prep.ngrams.smoothing import DiscountError, discounts
from tests.unit.data_prep.ngrams.plain_ngrams import Gram, PlainModel, read_arpa

Sentences = list[list[str]]


def phrases(count: int, seed: int = 1) -> Sentences:
    """Sentences of phrases, some of which are much more frequent than others, as in language."""
    generator = np.random.default_rng(seed)

    def zipf(size: int) -> np.ndarray:
        weights = 1 / np.arange(1, size + 1)
        return weights / weights.sum()

    words = [f"w{k}" for k in range(400)]
    known = [generator.choice(words, generator.integers(1, 7), p=zipf(400)).tolist() for _ in range(150)]
    sentences = []
    for _ in range(count):
        chosen = generator.choice(len(known), generator.integers(0, 4), p=zipf(150))
        sentences.append([word for k in chosen for word in known[k]])
    return sentences


def batches(sentences: Sentences, size: int = 20) -> Iterator[Sentences]:
    for first in range(0, len(sentences), size):
        yield sentences[first : first + size]


def made(path: Path, sentences: Sentences, order: int = 5, memory_bytes: int = 10_000_000, **others: Any) -> Summary:
    return estimate(batches(sentences), path, order=order, memory_bytes=memory_bytes, **others)


class Judge:
    """KenLM, asked for p(word | context)."""

    def __init__(self, path: Path) -> None:
        settings = kenlm.Config()
        settings.show_progress = False
        settings.arpa_complain = kenlm.ARPALoadComplain.ALL
        self.model = kenlm.Model(str(path), settings)

    def logarithm(self, context: Gram, word: str) -> float:
        state, after = kenlm.State(), kenlm.State()
        if context[:1] == ("<s>",):
            self.model.BeginSentenceWrite(state)
        else:
            self.model.NullContextWrite(state)
        for one in context[context[:1] == ("<s>",) :]:
            self.model.BaseScore(state, one, after)
            state, after = after, kenlm.State()
        return float(self.model.BaseScore(state, word, after))


@pytest.fixture(scope="module")
def sentences() -> Sentences:
    return phrases(600)


@pytest.mark.parametrize(("order", "prune"), [(2, ()), (3, ()), (5, ()), (5, (0, 0, 1)), (4, (0, 1, 1, 2))])
def test_every_number_is_that_of_the_definition_and_kenlm_reads_it(
    sentences: Sentences, order: int, prune: tuple[int, ...], tmp_path: Path
) -> None:
    plain = PlainModel(sentences, order, prune)
    summary = made(tmp_path / "m.arpa", sentences, order, prune=prune or (0,))
    assert np.allclose([one.discounts for one in summary.orders], plain.discounts[1:])
    assert [one.ngrams for one in summary.orders] == [len(plain.adjusted[1]) + 2, *map(len, plain.adjusted[2:])]
    assert summary.tokens == sum(map(len, sentences)) and summary.sentences == len(sentences)
    found = read_arpa(tmp_path / "m.arpa")
    kept = {gram for n in range(1, order + 1) for gram in plain.kept[n]}
    assert set(found) == {*kept, ("<unk>",), ("<s>",)}
    judge = Judge(tmp_path / "m.arpa")
    for gram, (probability, backoff) in found.items():
        if gram != ("<s>",):
            expected = math.log10(plain.probability(gram[:-1], gram[-1]))
            assert probability == pytest.approx(expected, abs=1e-5), gram
            assert judge.logarithm(gram[:-1], gram[-1]) == pytest.approx(expected, abs=1e-5), gram
        if backoff is not None:
            assert backoff == pytest.approx(math.log10(plain.backoff(gram)), abs=1e-5), gram
    unseen = phrases(60, seed=2)
    unseen.append(["w1", "nowhere", "w2"])
    for sentence in unseen:
        assert judge.model.score(" ".join(sentence)) == pytest.approx(plain.score(sentence), abs=1e-4), sentence


@pytest.mark.parametrize("prune", [(0,), (0, 0, 1)])
def test_probabilities_sum_to_one_after_any_context(
    sentences: Sentences, prune: tuple[int, ...], tmp_path: Path
) -> None:
    made(tmp_path / "m.arpa", sentences, 4, prune=prune)
    judge = Judge(tmp_path / "m.arpa")
    words = [gram[0] for gram in read_arpa(tmp_path / "m.arpa") if len(gram) == 1 and gram != ("<s>",)]
    assert "<unk>" in words and "</s>" in words
    generator = np.random.default_rng(3)
    seen = [gram for gram in read_arpa(tmp_path / "m.arpa") if gram[-1] not in ("</s>", "<unk>") and len(gram) < 4]
    contexts = [seen[k] for k in generator.permutation(len(seen))[:40]]
    contexts += [tuple(generator.choice(words[2:], 3).tolist()) for _ in range(10)]
    for context in [(), ("<s>",), ("w1", "nowhere"), *contexts]:
        total = sum(10 ** judge.logarithm(context, word) for word in words)
        assert total == pytest.approx(1, abs=1e-4), context


def test_the_file_is_the_same_for_any_memory_and_block(
    sentences: Sentences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentences = sentences[:300]
    made(tmp_path / "large.arpa", sentences, prune=(0, 0, 0, 1), discount_fallback=True)
    expected = (tmp_path / "large.arpa").read_bytes()
    runs = []

    class Watched(model_module.NGramCounter):
        def blocks(self) -> Iterator[sorting.Rows]:
            runs.append(self.run_count)
            return super().blocks()

    monkeypatch.setattr(model_module, "NGramCounter", Watched)
    for memory_bytes, block_rows in ((20_000, 1 << 16), (5_000, 1 << 16), (5_000, 7), (10_000_000, 3)):
        monkeypatch.setattr(sorting, "BLOCK_ROWS", block_rows)
        path = tmp_path / f"{memory_bytes}-{block_rows}.arpa"
        made(path, sentences, memory_bytes=memory_bytes, prune=(0, 0, 0, 1), discount_fallback=True)
        assert path.read_bytes() == expected, path
    assert 3 < runs[0] < runs[1] == runs[2] and runs[3] == 0
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".arpa"] * 5, "no scratch is left"


def test_a_model_worked_out_by_hand(tmp_path: Path) -> None:
    # Bigrams of "a b" and "b": b </s> twice, <s> a, <s> b, a b. Before a is <s>, before b are <s> and a, before </s> is
    # b: 4 different pairs. Discounts are 0.5 of a count of 1 and 1 of 2. What they leave is for <unk>, </s>, a and b.
    made(tmp_path / "m.arpa", [["a", "b"], ["b"]], 2, discount_fallback=True)
    unknown = (0.5 + 1 + 0.5) / 4 / 4
    a, b, end = 0.5 / 4 + unknown, 1 / 4 + unknown, 0.5 / 4 + unknown
    expected = {
        ("<unk>",): (unknown, 1),
        ("<s>",): (1, (0.5 + 0.5) / 2),
        ("</s>",): (end, 1),
        ("a",): (a, 0.5),
        ("b",): (b, 1 / 2),
        ("b", "</s>"): (1 / 2 + 1 / 2 * end, None),
        ("<s>", "a"): (0.5 / 2 + 0.5 * a, None),
        ("<s>", "b"): (0.5 / 2 + 0.5 * b, None),
        ("a", "b"): (0.5 + 0.5 * b, None),
    }
    found = read_arpa(tmp_path / "m.arpa")
    assert list(found) == list(expected), "in the order of lmplz: by the last word, as words first occur"
    for gram, (probability, backoff) in expected.items():
        logarithms = math.log10(probability), None if backoff is None else math.log10(backoff)
        assert found[gram] == pytest.approx(logarithms, abs=1e-6), gram


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            ["a a b a", "b a a b"],
            {"<unk>": -0.90309, "a": -0.46943438, "</s>": -0.5720968, "<s> a": -0.37712017, "<s> b": -0.41574955},
        ),
        (
            ["a a b b b b b b b", "c"],
            {
                "<unk>": -1,
                "a": -0.6146491,
                "</s>": -0.6146491,
                "c": -0.7659168,
                "<s> a": -0.4301247,
                "<s> c": -0.4740302,
                "<s> c </s>": -0.09113217,
            },
        ),
    ],
)
def test_what_lmplz_computes_of_kenlms_toys(text: list[str], expected: dict[str, float], tmp_path: Path) -> None:
    """`lmplz --discount_fallback -o 3`; kenlm, lm/interpolate/tune_instances_test.cc and tune_instance_data."""
    made(tmp_path / "m.arpa", [line.split() for line in text], 3, discount_fallback=True)
    found = read_arpa(tmp_path / "m.arpa")
    assert {gram: found[tuple(gram.split())][0] for gram in expected} == pytest.approx(expected, abs=1e-6)
    assert found["<s>",][1] == pytest.approx(-0.30103, abs=1e-6)


def test_what_lmplz_computes_without_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`lmplz -o 2`; github.com/kpu/kenlm, issue 405. There the last unigram, `ski`, counts among those with the
    adjusted count 2, because it occurs twice; by the definition it is one of count 1."""
    asked = []

    def as_there(with_count: Sequence[int], order: int, fallback: bool) -> tuple[float, float, float]:
        asked.append(list(with_count))
        return discounts([4, 3, 1, 1] if order == 1 else with_count, order, fallback)

    monkeypatch.setattr(model_module, "discounts", as_there)
    text = ["I went to", "I go to", "You went to", "You go to", "Joe went to", "Joe go to", *["Anna went ski"] * 2]
    made(tmp_path / "m.arpa", [line.split() for line in text], 2)
    assert asked == [[5, 2, 1, 1], [6, 7, 2, 0]]
    expected = {
        "<unk>": (-1.30103, 0),
        "<s>": (0, -0.059768215),
        "</s>": (-1.1249387, 0),
        "I": (-1.0579919, -0.5228788),
        "went": (-0.6726411, -0.022929981),
        "to": (-1.1249387, -0.30103),
        "go": (-0.82390875, 0),
        "Anna": (-1.0579919, -0.059768215),
        "ski": (-1.0579919, -0.059768215),
        "to </s>": (-0.26962152, None),
        "ski </s>": (-0.7123581, None),
        "<s> I": (-0.9649993, None),
        "I went": (-0.383262, None),
    }
    found = read_arpa(tmp_path / "m.arpa")
    assert sum(len(gram) == 1 for gram in found) == 11 and sum(len(gram) == 2 for gram in found) == 16
    for gram, numbers in expected.items():
        assert found[tuple(gram.split())] == pytest.approx(numbers, abs=1e-6), gram


def test_empty_lines_are_sentences_and_pieces_may_be_anything_else(tmp_path: Path) -> None:
    text = [[], ["“", '"', "\\data\\", "▁", "-1\u00a0", "\u2028"], ['"', "▁"], ["\\end\\"]]
    made(tmp_path / "m.arpa", text, 3, discount_fallback=True)
    judge, plain = Judge(tmp_path / "m.arpa"), PlainModel(text, 3, fallback=True)
    assert judge.logarithm(("<s>",), "</s>") == pytest.approx(math.log10(plain.probability(("<s>",), "</s>")), abs=1e-5)
    for sentence in text:
        assert judge.model.score(" ".join(sentence)) == pytest.approx(plain.score(sentence), abs=1e-4)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.arpa"
    with pytest.raises(DiscountError, match=r"^1-grams: none has the adjusted count 1; the text is too small"):
        made(path, [["a", "b"] * 5, ["b", "a"] * 5, ["a", "a"], ["b", "b"]], 2)
    with pytest.raises(DiscountError, match=r"^3-grams: the discount of count 2 would be -8\.\d+; .*-fallback"):
        discounts([10, 2, 10, 1], 3)
    assert discounts([10, 2, 10, 1], 3, fallback=True) == (0.5, 1, 1.5)
    with pytest.raises(ValueError, match=r"m\.arpa: there is no text"):
        made(path, [])
    for word in ("<s>", "</s>", "<unk>", "<UNK>"):
        with pytest.raises(VocabularyError, match=rf"^the piece '{word}' is a control word"):
            made(path, [["a", word]])
    for word in ("", "a b", "a\tb"):
        with pytest.raises(VocabularyError, match=r"is empty or has white space"):
            made(path, [["a", word]])
    for order in (1, 7):
        with pytest.raises(ValueError, match=rf"^--order {order}: must be from 2 to 6"):
            made(path, [["a"]], order)
    for prune, told in (
        ((1,), "the first threshold must be 0"),
        ((0, 2, 1), "thresholds must not fall"),
        ((0, 0, 1, 1), "one threshold for each order, at most 3"),
        ((), "one threshold for each order"),
    ):
        with pytest.raises(ValueError, match=told):
            made(path, [["a"]], 3, prune=prune)
    assert list(tmp_path.iterdir()) == [], "neither a model nor scratch"
