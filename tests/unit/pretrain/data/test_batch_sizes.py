"""The growing batch against Megatron-LM's rule, worked out step by step."""

from __future__ import annotations

import pytest

from pretrain.data.batch_sizes import BatchSizes, Ramp

BLOOM = BatchSizes(2048, Ramp(start=192, increment=16, samples=9_765_625))


def by_megatrons_rule(sizes: BatchSizes, consumed: int) -> int:
    """`RampupBatchsizeNumMicroBatches.update` of Megatron-LM, in its own floating-point numbers."""
    assert sizes.ramp is not None
    if consumed > sizes.ramp.samples:
        return sizes.full
    samples_per_increment = sizes.ramp.samples / ((sizes.full - sizes.ramp.start) / sizes.ramp.increment)
    return min(sizes.full, sizes.ramp.start + int(consumed / samples_per_increment) * sizes.ramp.increment)


def test_bloom_grows_as_it_did() -> None:
    consumed = steps = 0
    while BLOOM.at(consumed) < BLOOM.full:
        assert BLOOM.at(consumed) == by_megatrons_rule(BLOOM, consumed)
        if steps % 997 == 0:
            assert BLOOM.after(steps) == consumed
        consumed += BLOOM.at(consumed)
        steps += 1
    assert 9_765_625 <= consumed < 9_765_625 + 2048
    assert BLOOM.after(steps) == consumed
    assert BLOOM.after(steps + 1000) == consumed + 1000 * 2048
    assert BLOOM.steps_to(9_765_625) == steps
    assert BLOOM.all[0] == 192 and BLOOM.all[-1] == 2048 and len(BLOOM.all) == 117


@pytest.mark.parametrize(("steps", "samples"), [(12_695, 9_841_584), (31_214, 47_768_496), (31_222, 47_784_880)])
def test_blooms_own_log_counts_the_same(steps: int, samples: int) -> None:
    """Iterations and consumed samples that BigScience's chronicles of the run quote from its log."""
    assert BLOOM.after(steps) == samples


@pytest.mark.parametrize("samples", [1, 7, 12, 50, 333])
def test_any_ramp_counts_like_one_step_after_the_other(samples: int) -> None:
    """Short ones too, in which a step is longer than a stretch of the ramp and sizes are jumped over."""
    sizes = BatchSizes(12, Ramp(start=2, increment=5, samples=samples))
    consumed = 0
    for steps in range(60):
        assert sizes.after(steps) == consumed
        assert sizes.steps_to(consumed) == steps
        assert sizes.steps_to(consumed + 1) == steps + 1
        assert sizes.at(consumed) in sizes.all
        consumed += sizes.at(consumed)


def test_without_a_ramp_every_step_is_the_same() -> None:
    sizes = BatchSizes(8)
    assert (sizes.all, sizes.at(0), sizes.at(10**12), sizes.after(5), sizes.steps_to(33)) == ((8,), 8, 8, 40, 5)
