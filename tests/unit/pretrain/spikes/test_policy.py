"""Rollback, skip, escalation, budget: which decision follows from which facts."""

from __future__ import annotations

import math

import pytest

from pretrain.spikes.detector import Verdict
from pretrain.spikes.ledger import Entry, rate_factor, skipped_ranges
from pretrain.spikes.policy import decide
from pretrain.spikes.settings import SpikesConfig

SETTINGS = SpikesConfig()
BATCH = 8
FIRST_SAMPLES = {step: (step - 1) * BATCH for step in range(1, 10_000)}


def persistent(onset: int, peak: float = 2.5) -> Verdict:
    return Verdict("persistent", onset, 20, peak, "20 of 25 steps high")


def answer(onset: int, entries: list[Entry], healthy: tuple[int, ...] = (0, 500, 900, 1000, 1400)) -> Entry:
    return decide(persistent(onset), onset + 20, entries, healthy, FIRST_SAMPLES, BATCH, SETTINGS)


def test_back_to_the_newest_healthy_checkpoint_before_the_onset() -> None:
    entry = answer(1080, [])
    assert (entry.kind, entry.to_step, entry.attempt) == ("rollback", 900, 1)
    assert answer(1100, []).to_step == 1000  # 100 before the onset is far enough
    assert answer(1099, []).to_step == 900


def test_it_skips_from_before_the_onset_also_when_the_checkpoint_is_older() -> None:
    """PaLM: the batches that were seen before and during the spike."""
    start = FIRST_SAMPLES[980]
    assert answer(1080, []).skipped == (start, start + 200 * BATCH)
    assert answer(1080, [], healthy=(0,)).skipped == (start, start + 200 * BATCH)


def test_a_spike_near_the_beginning_goes_back_to_it() -> None:
    entry = answer(30, [])
    assert (entry.to_step, entry.skipped) == (0, (0, 200 * BATCH))


def test_it_skips_what_stands_in_the_row_when_batches_grow() -> None:
    """Samples are counted, not steps: half of the steps before had half the batch."""
    first = {step: (step - 1) * 4 if step <= 1000 else 4000 + (step - 1001) * 8 for step in range(1, 1200)}
    entry = decide(persistent(1050), 1070, [], (0, 900), first, 8, SETTINGS)
    assert entry.skipped == (949 * 4, 949 * 4 + 200 * 8)


def test_the_same_place_again_escalates_and_ends() -> None:
    entries: list[Entry] = []
    for attempt, (batches, factor) in enumerate([(200, None), (500, None), (500, 0.5)], start=1):
        entry = answer(1500 + attempt, entries)
        assert entry.attempt == attempt and entry.skipped
        assert entry.skipped[1] - entry.skipped[0] == batches * BATCH
        assert entry.learning_rate_factor == factor
        entries.append(entry)
    assert answer(1504, entries).kind == "stop"
    far = answer(1503 + SETTINGS.cooldown_steps + 1, entries)
    assert (far.kind, far.attempt) == ("rollback", 1)
    assert answer(1503 + SETTINGS.cooldown_steps, entries).kind == "stop"


def test_the_budget_ends() -> None:
    entries = [
        answer(1500, []).model_copy(update={"onset": -5000 + 100 * i}) for i in range(SETTINGS.maximum_rollbacks)
    ]
    assert answer(1500, entries[1:]).kind == "rollback"
    stop = answer(1500, entries)
    assert stop.kind == "stop" and "maximum_rollbacks 20 are used up" in stop.reason


def test_no_checkpoint_is_old_enough() -> None:
    stop = answer(1080, [], healthy=(1000, 1050))
    assert stop.kind == "stop" and "no healthy checkpoint at step" in stop.reason


def test_not_a_number_has_no_peak() -> None:
    entry = decide(persistent(1080, math.inf), 1100, [], (900,), FIRST_SAMPLES, BATCH, SETTINGS)
    assert entry.peak is None


def test_the_rate_is_lowered_with_a_new_warm_up() -> None:
    lowered = Entry(
        kind="rollback",
        step=1520,
        onset=1500,
        reason="",
        to_step=1400,
        skipped=(0, 8),
        learning_rate_factor=0.5,
        rewarm_steps=100,
    )
    assert rate_factor([lowered], 1400) == 1.0
    assert rate_factor([lowered], 1401) == pytest.approx(0.005)
    assert rate_factor([lowered], 1500) == rate_factor([lowered], 9000) == 0.5
    earlier = lowered.model_copy(update={"learning_rate_factor": None, "rewarm_steps": None, "to_step": 1000})
    assert rate_factor([lowered, earlier], 1001) == pytest.approx(0.005)
    assert rate_factor([earlier, lowered], 1001) == 1.0
    assert rate_factor([lowered, lowered], 9000) == 0.25


def test_what_is_skipped() -> None:
    assert skipped_ranges([answer(1080, []), answer(1200, [])]) == [
        (979 * 8, 979 * 8 + 1600),
        (1099 * 8, 1099 * 8 + 1600),
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"skip_batches": 120}, "skip_batches: 120 ends before a spike is recognised: at least .* = 145"),
        ({"longer_skip_batches": 200}, "longer_skip_batches: 200 must be more than skip_batches 200"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpikesConfig.model_validate(settings)
