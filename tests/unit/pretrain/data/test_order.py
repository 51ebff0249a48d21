"""The order of samples as properties over random plans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.order import Phase, SampleOrder, whole_weights, window_count


@st.composite
def orders(draw: st.DrawFn) -> SampleOrder:
    count = draw(st.integers(1, 6))
    windows = draw(st.lists(st.integers(1, 60), min_size=count, max_size=count))
    weights = draw(st.lists(st.integers(1, 20), min_size=count, max_size=count))
    return one_phase(draw(st.integers(0, 1 << 40)), [f"source_{i}" for i in range(count)], windows, weights)


def one_phase(seed: int, names: Sequence[str], windows: Sequence[int], weights: Sequence[float]) -> SampleOrder:
    return SampleOrder(seed, names, [count * 4 + 1 for count in windows], [Phase(0, 4, tuple(weights))])


def weights_of(order: SampleOrder) -> tuple[int, ...]:
    return order.dealings[0].weights


def block_of(order: SampleOrder) -> int:
    return order.dealings[0].block_samples


@given(order=orders(), blocks=st.integers(1, 4), first=st.integers(0, 10**12))
@settings(max_examples=60, deadline=None)
def test_proportions_are_exact_in_each_block(order: SampleOrder, blocks: int, first: int) -> None:
    samples = first * block_of(order) + np.arange(blocks * block_of(order))
    dataset = order.locate(samples).dataset.reshape(blocks, block_of(order))
    for block in dataset:
        assert np.bincount(block, minlength=len(weights_of(order))).tolist() == list(weights_of(order))


@given(order=orders())
@settings(max_examples=60, deadline=None)
def test_any_prefix_is_nearly_proportional(order: SampleOrder) -> None:
    dataset = order.locate(np.arange(2 * block_of(order))).dataset
    seen = np.zeros(len(weights_of(order)))
    for i, d in enumerate(dataset):
        seen[d] += 1
        exact = (i + 1) * np.array(weights_of(order)) / block_of(order)
        assert np.abs(seen - exact).max() <= 0.5 * len(weights_of(order))
        assert list(order.dealings[0].drawn(i + 1)) == seen.tolist()


@given(order=orders())
@settings(max_examples=60, deadline=None)
def test_every_window_once_per_epoch(order: SampleOrder) -> None:
    counts = [window_count(tokens, 4) for tokens in order.tokens]
    enough = 3 * block_of(order) * max(counts)
    places = order.locate(np.arange(enough))
    for d, windows in enumerate(counts):
        mine = places.dataset == d
        epoch, window = places.epoch[mine], places.window[mine]
        assert np.all(np.diff(epoch) >= 0)
        for e in range(int(epoch[-1])):  # the last one may be unfinished
            assert np.sort(window[epoch == e]).tolist() == list(range(windows))
        unfinished = window[epoch == epoch[-1]]
        assert len(np.unique(unfinished)) == len(unfinished)


@given(order=orders(), samples=st.lists(st.integers(0, 10**14), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_a_sample_depends_on_its_number_only(order: SampleOrder, samples: list[int]) -> None:
    together = order.locate(samples)
    for i, sample in enumerate(samples):
        alone = order.locate([sample])
        assert (alone.dataset[0], alone.epoch[0], alone.window[0]) == (
            together.dataset[i],
            together.epoch[i],
            together.window[i],
        )


def test_epochs_seeds_and_names_differ() -> None:
    def windows(seed: int, name: str) -> list[list[int]]:
        return one_phase(seed, [name], [500], [1]).locate(np.arange(1500)).window.reshape(3, 500).tolist()

    first = windows(1, "a")
    assert first == windows(1, "a")
    others = [first[1], first[2], windows(2, "a")[0], windows(1, "b")[0]]
    for other in others:
        assert np.mean(np.array(first[0]) == np.array(other)) < 0.05


def test_a_trillion_tokens_cost_nothing_more() -> None:
    """2048-token windows of 10**12 tokens in 300 datasets; far ahead, in any order."""
    count, windows = 300, 10**12 // 2048 // 300
    order = one_phase(7, [f"d{i}" for i in range(count)], [windows] * count, list(range(1, count + 1)))
    places = order.locate([0, 10**9, 10**15])
    assert places.window.max() < windows
    assert np.bincount(order.locate(np.arange(block_of(order))).dataset).tolist() == list(range(1, count + 1))


@pytest.mark.parametrize(
    ("weights", "whole"),
    [
        ([0.7, 0.3], (7, 3)),
        ([2, 4], (1, 2)),
        ([1.0], (1,)),
        ([1, 1, 1], (1, 1, 1)),
        ([0.5, 0.25, 0.25], (2, 1, 1)),
        ([1e-12, 1.0], (1, 999_999)),
        ([123_456_789, 1_000_000_000], (10_989, 89_011)),
    ],
)
def test_whole_weights(weights: list[float], whole: tuple[int, ...]) -> None:
    assert whole_weights(weights) == whole


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30))
def test_whole_weights_are_close(weights: list[float]) -> None:
    whole = np.array(whole_weights(weights))
    shares = np.array(weights) / np.sum(weights)
    assert np.abs(whole / whole.sum() - shares).max() <= 31e-6


@pytest.mark.parametrize("weights", [[], [1, 0], [1, -1], [float("nan")], [float("inf")]])
def test_weights_that_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"must be a positive number|at least one weight"):
        whole_weights(weights)


@given(tokens=st.integers(0, 500), length=st.integers(1, 50))
def test_as_many_windows_as_fit(tokens: int, length: int) -> None:
    """Each shares one token with the next, and less than another window's targets are left over."""
    windows = window_count(tokens, length)
    if windows == 0:
        assert tokens < length + 1
    else:
        assert 0 <= tokens - (windows * length + 1) < length


def test_refusals_name_the_fault() -> None:
    with pytest.raises(ValueError, match="'b' has 1 tokens, fewer than one window"):
        one_phase(0, ["a", "b"], [3, 0], [1, 1])
    with pytest.raises(ValueError, match="must differ: a, a"):
        one_phase(0, ["a", "a"], [3, 3], [1, 1])
    with pytest.raises(ValueError, match="sample -1 does not exist"):
        one_phase(0, ["a"], [3], [1]).locate([4, -1])


@st.composite
def changing_orders(draw: st.DrawFn) -> SampleOrder:
    """Up to four phases with their own weights (some zero) and one of two sequence lengths."""
    count = draw(st.integers(1, 4))
    tokens = draw(st.lists(st.integers(9, 200), min_size=count, max_size=count))
    phases, first = [], 0
    for _ in range(draw(st.integers(1, 4))):
        weights = draw(st.lists(st.integers(0, 6), min_size=count, max_size=count).filter(any))
        phases.append(Phase(first, draw(st.sampled_from([4, 8])), tuple(map(float, weights))))
        first += draw(st.integers(1, 150))
    return SampleOrder(draw(st.integers(0, 1 << 40)), [f"source_{i}" for i in range(count)], tokens, phases)


@given(order=changing_orders())
@settings(max_examples=80, deadline=None)
def test_phases_repeat_and_lose_nothing(order: SampleOrder) -> None:
    places = order.locate(np.arange(1000))
    lengths = np.array([phase.sequence_length for phase in order.phases])[order.phase_at(np.arange(1000))]
    for length in np.unique(lengths).tolist():
        for d, windows in enumerate(window_count(tokens, length) for tokens in order.tokens):
            mine = (places.dataset == d) & (lengths == length)
            epoch, window = places.epoch[mine], places.window[mine]
            assert np.all(np.diff(epoch) >= 0) and np.all(np.diff(epoch) <= 1) and (not len(epoch) or epoch[0] == 0)
            for e in np.unique(epoch)[:-1].tolist():
                assert np.sort(window[epoch == e]).tolist() == list(range(windows))
            last = window[epoch == epoch[-1]] if len(epoch) else window
            assert len(np.unique(last)) == len(last)


@given(order=changing_orders())
@settings(max_examples=80, deadline=None)
def test_each_phase_has_its_proportions(order: SampleOrder) -> None:
    dataset = order.locate(np.arange(1000)).dataset
    ends = [phase.first_sample for phase in order.phases[1:]] + [1000]
    for phase, dealing, end in zip(order.phases, order.dealings, ends, strict=True):
        mine = dataset[phase.first_sample : end]
        blocks = len(mine) // dealing.block_samples
        for block in mine[: blocks * dealing.block_samples].reshape(blocks, dealing.block_samples):
            assert np.bincount(block, minlength=len(dealing.weights)).tolist() == list(dealing.weights)
        assert np.bincount(mine, minlength=len(dealing.weights)).tolist() == list(dealing.drawn(len(mine)))


@given(order=changing_orders(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_later_phase_changes_nothing_before_it(order: SampleOrder, data: st.DataObject) -> None:
    first = order.phases[-1].first_sample + data.draw(st.integers(1, 50))
    added = Phase(first, 4, tuple(1.0 for _ in order.names))
    longer = SampleOrder(order.seed, order.names, order.tokens, [*order.phases, added])
    before, after = order.locate(np.arange(first)), longer.locate(np.arange(first))
    for one, other in ((before.dataset, after.dataset), (before.epoch, after.epoch), (before.window, after.window)):
        np.testing.assert_array_equal(one, other)
    assert longer.plan(before=first) == order.plan(before=first) == order.plan()
    assert longer.plan(before=first + 1) != order.plan()


def test_phases_that_are_refused() -> None:
    with pytest.raises(ValueError, match="first phase must begin at sample 0"):
        SampleOrder(0, ["a"], [100], [Phase(5, 4, (1.0,))])
    with pytest.raises(ValueError, match="from sample 7 cannot follow one from sample 7"):
        SampleOrder(0, ["a"], [100], [Phase(0, 4, (1.0,)), Phase(7, 4, (1.0,)), Phase(7, 8, (1.0,))])
    with pytest.raises(ValueError, match=r"'a' has 100 tokens, fewer than one window of sequence_length 100 \+ 1"):
        SampleOrder(0, ["a"], [100], [Phase(0, 4, (1.0,)), Phase(7, 100, (1.0,))])
