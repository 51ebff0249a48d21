"""Samples of each objective: visible tokens, targets, and GLM's own arrangement."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretrain.config import ObjectiveConfig
from pretrain.data.objective import Objective, Windows, blank_sample, prefix_sample, separate_documents
from pretrain.model.layout import BLOCK_POSITION, FIRST_SEEN, POSITION, SEEN_END
from tests.unit.pretrain.families import twin
from tests.unit.pretrain.families.small import build, small_model

MASK, LONG_MASK, START, END = 1, 2, 3, 4
LENGTH = 120


def blanks(short_span_share: float) -> ObjectiveConfig:
    return ObjectiveConfig(
        kind="blank_infilling",
        short_span_share=short_span_share,
        mask_token=MASK,
        long_mask_token=LONG_MASK,
        start_token=START,
        end_token=END,
    )


def window() -> np.ndarray:
    return np.arange(5, 5 + LENGTH + 1)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("two_dimensional", [True, False])
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["long", "short"])
def test_blanks_hold_what_was_taken_out(seed: int, two_dimensional: bool, share: float) -> None:
    sample = blank_sample(window(), blanks(share), np.random.RandomState(seed), two_dimensional)
    assert len(sample.tokens) == len(sample.targets) == len(sample.layout) == LENGTH
    mask = MASK if share else LONG_MASK
    known = int(sample.layout[0, SEEN_END])
    part_a = sample.tokens[:known].tolist()
    starts = [place for place in range(known, LENGTH) if sample.tokens[place] == START]
    used = int(sample.is_predicted.nonzero()[0][-1]) + 1
    assert part_a.count(mask) == len(starts)
    assert not sample.is_predicted[:known].any() and sample.is_predicted[known:used].all()

    masks = [place for place, token in enumerate(part_a) if token == mask]
    filled: dict[int, list[int]] = {}
    for number, (start, stop) in enumerate(zip(starts, [*starts[1:], used], strict=True)):
        assert sample.targets[start:stop].tolist() == [*sample.tokens[start + 1 : stop].tolist(), END]
        if two_dimensional:
            (mask_place,) = set(sample.layout[start:stop, POSITION].tolist())
            assert sample.layout[start:stop, BLOCK_POSITION].tolist() == list(range(1, stop - start + 1))
        else:
            mask_place = masks[number]
            assert sample.layout[start:stop, POSITION].tolist() == list(range(start, stop))
        filled[mask_place] = sample.targets[start : stop - 1].tolist()
    whole = [token for place, old in enumerate(part_a) for token in (filled[place] if old == mask else [old])]
    assert whole == window()[: len(whole)].tolist()
    assert LENGTH - 2 <= len(whole) + 2 * len(starts) <= LENGTH or used == LENGTH

    masked = sum(map(len, filled.values())) / len(whole)
    if share:
        assert 0.15 <= masked < 0.15 + 12 / LENGTH  # the last span goes over
        assert all(second - first > 1 for first, second in itertools.pairwise(masks)), "spans touch"
    else:
        assert masks == [known - 1] and 0.49 <= masked < 1

    for place in range(LENGTH):  # part A sees itself, part B what stands before too, padding only itself
        first, end = sample.layout[place, [FIRST_SEEN, SEEN_END]]
        assert (first, end) == ((0, known) if place < known else (0 if place < used else place, place + 1))


def test_spans_are_shuffled_with_positions_and_in_order_without() -> None:
    orders = []
    for two_dimensional in (True, False):
        sample = blank_sample(window(), blanks(1.0), np.random.RandomState(5), two_dimensional)
        firsts = [int(sample.targets[place]) for place in range(LENGTH) if sample.tokens[place] == START]
        orders.append(firsts)
    assert orders[1] == sorted(orders[1]) and orders[0] != sorted(orders[0])
    assert sorted(orders[0]) == orders[1]


@pytest.mark.parametrize("seed", range(10))
def test_prefix(seed: int) -> None:
    sample = prefix_sample(window(), np.random.RandomState(seed))
    prefix = int(sample.layout[0, SEEN_END])
    assert 1 <= prefix < LENGTH
    assert sample.layout[:, SEEN_END].tolist() == [max(place + 1, prefix) for place in range(LENGTH)]
    assert sample.is_predicted.tolist() == [place >= prefix - 1 for place in range(LENGTH)]
    assert sample.targets[prefix - 1] == window()[prefix], "the first token that is not seen"


def test_samples_depend_on_seed_split_and_number_alone() -> None:
    windows = np.stack([window(), window()])

    def tokens(seed: int, split: str, *numbers: int) -> torch.Tensor:
        objective = Objective(blanks(0.5), seed, split, two_dimensional=True)
        (result, _), _ = objective.batch(Windows(windows[: len(numbers)], np.array(numbers)))
        return result

    both = tokens(1, "train", 7, 8)
    assert torch.equal(both[1:], tokens(1, "train", 8))
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(both[1:], tokens(2, "train", 8))
    assert not torch.equal(both[1:], tokens(1, "heldout", 8))
    assert torch.equal(tokens(1, "heldout", 8), tokens(2, "heldout", 8)), "held-out text is the same in every run"
    # These numbers are in checkpoints' future: another numpy must make the same.
    assert tokens(1, "train", 7)[0, :8].tolist() == FROZEN


FROZEN = [5, 6, 7, LONG_MASK, START, 8, 9, 10]


@pytest.mark.parametrize("kind", ["blank_infilling", "prefix"])
def test_weights_of_samples_that_are_not_causal(kind: str) -> None:
    config = blanks(0.5) if kind == "blank_infilling" else ObjectiveConfig(kind="prefix")
    windows = Windows(np.stack([window()] * 40), np.arange(40))
    by_token = Objective(config, 1, two_dimensional=True)
    _, (_, weights) = by_token.batch(windows)
    counts = weights.sum(1).tolist()
    assert set(weights.unique().tolist()) == {0.0, 1.0} and len(set(counts)) > 1
    assert [by_token.predicted_tokens(sample, LENGTH) for sample in range(40)] == counts
    by_sample = Objective(config.model_copy(update={"weighting": "sample"}), 1, two_dimensional=True)
    _, (_, weights) = by_sample.batch(windows)
    torch.testing.assert_close(weights.sum(1), torch.ones(40, dtype=torch.float64))


@pytest.mark.parametrize("name", ["glm", "glm-deepnorm"])
def test_glm_fills_blanks_as_its_twin(name: str) -> None:
    """Logits and gradients of the blanks' loss against the plain model written from the paper."""
    config = small_model(name)
    two_dimensional = config.positions == "learned_2d"
    objective = Objective(blanks(0.5), 3, two_dimensional=two_dimensional)
    windows = np.random.RandomState(2).randint(5, config.vocabulary_size, (4, 161))
    (tokens, layout), (targets, weights) = objective.batch(Windows(windows, np.arange(4)))
    prefixes = layout[:, 0, SEEN_END].tolist()
    used = [int(row.nonzero()[-1]) + 1 for row in weights]
    model = build(config)
    ours = model(tokens, layout).transpose(0, 1)[..., : config.vocabulary_size]
    parameters = {key: p.detach().clone().requires_grad_() for key, p in build(config).named_global_parameters()}
    expected = twin.glm(parameters, config, tokens, layout[..., [POSITION, BLOCK_POSITION]], prefixes)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return (F.cross_entropy(logits.transpose(1, 2), targets, reduction="none") * weights).sum()

    for row, end in enumerate(used):  # padding sees nothing of the text, in the twin it does
        torch.testing.assert_close(ours[row, :end], expected[row, :end], rtol=1e-4, atol=1e-4)
    loss(ours).backward()
    loss(expected).backward()
    for key, parameter in model.named_global_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, parameters[key].grad, rtol=1e-3, atol=1e-5, msg=key)


def test_layout_of_separate_documents() -> None:
    opens = np.array([[False, False, True, False, True, True, False]])
    layout = separate_documents(opens)
    assert layout[0, :, FIRST_SEEN].tolist() == [0, 0, 2, 2, 4, 5, 5]
    assert layout[0, :, POSITION].tolist() == [0, 1, 0, 1, 0, 0, 1]
    assert layout[0, :, SEEN_END].tolist() == list(range(1, 8))


@pytest.mark.parametrize("name", ["gpt3", "llama", "bloom", "baichuan-alibi"])
def test_separate_documents_are_trained_on_as_if_alone(name: str) -> None:
    """Logits and gradients of a window are those of each document in a batch of its own, an end-token in front."""
    config = small_model(name)
    random = np.random.RandomState(4)
    # Longer than a query block of the CPU's attention, with documents that lie across its edges.
    sizes = [60, 1, 40, 70, 16]
    documents = [[*random.randint(5, config.vocabulary_size, size).tolist(), END] for size in sizes]
    stream = np.array([[END, *(token for document in documents for token in document)]])
    opens = stream[:, :-1] == END
    (tokens, layout), targets = Objective(ObjectiveConfig(separate_documents=True)).batch(
        Windows(stream, np.array([0]), opens=opens)
    )
    together, apart = build(config), build(config)
    logits = together(tokens, layout)[:, 0]
    F.cross_entropy(logits[:, : config.vocabulary_size], targets[0], reduction="sum").backward()
    start = 0
    for document in documents:
        alone = apart(torch.tensor([[END, *document[:-1]]]))[:, 0]
        torch.testing.assert_close(logits[start : start + len(document)], alone, rtol=1e-4, atol=1e-4)
        F.cross_entropy(alone[:, : config.vocabulary_size], torch.tensor(document), reduction="sum").backward()
        start += len(document)
    assert start == tokens.shape[1]
    for (key, ours), (_, other) in zip(
        together.named_global_parameters(), apart.named_global_parameters(), strict=True
    ):
        assert ours.grad is not None and other.grad is not None
        torch.testing.assert_close(ours.grad, other.grad, rtol=1e-3, atol=1e-4, msg=key)


def test_separate_documents_are_for_causal_samples() -> None:
    with pytest.raises(ValueError, match=r"separate_documents: only with kind causal; objective\.kind is prefix"):
        ObjectiveConfig(kind="prefix", separate_documents=True)
