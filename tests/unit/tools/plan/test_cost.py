"""Predicted seconds of a step: each part alone against its formula, and blocks against a published table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pretrain.config import ModelConfig
from pretrain.monitor.flops import model_flops_per_token, recomputed_flops_per_token
from tools.plan.cost import Layout, Software, all_reduce, block_time, head_time, step_time
from tools.plan.hardware import HARDWARE
from tools.plan.published import MEGATRON_2021

A100 = HARDWARE["a100"]
ARITHMETIC = replace(
    A100, memory_rate=1e30, link_rate=1e30, network_rate=1e30, launch=0.0, link_latency=0.0, network_latency=0.0
)
"""Only arithmetic takes time."""
ONE = Layout(1, 1, 1, 2, 3)
EVEN = Software(even_stages=True)


def llama(**changes: object) -> ModelConfig:
    values = {
        "family": "llama",
        "vocabulary_size": 32000,
        "hidden_size": 4096,
        "layers": 32,
        "attention_heads": 32,
        "key_value_heads": 8,
        "feed_forward_size": 11008,
        "maximum_positions": 2048,
        **changes,
    }
    return ModelConfig.model_validate(values)


@pytest.mark.parametrize("changes", [{}, {"sliding_window": 512}, {"activation": "gelu"}])
def test_arithmetic_is_that_of_the_flop_count(changes: dict[str, object]) -> None:
    """With nothing but arithmetic, a step takes the FLOPs that MFU is computed from, up to the weights of norms, and to
    attention, of which fused kernels compute the visible half, and in the backward pass the scores again."""
    model = llama(**changes)
    time = step_time(model, 2048, ONE, ARITHMETIC)
    attention = 4 * model.layers * model.attention_heads * model.head_size * model.attended_length(2048)
    flops = ONE.samples * 2048 * (model_flops_per_token(model, 2048) - 3 * attention)
    assert time.products * A100.product_rate == pytest.approx(flops, rel=1e-3)
    assert time.attention * A100.attention_rate == pytest.approx(ONE.samples * 2048 * attention / 2 * 3.5)
    assert time.total == pytest.approx(time.products + time.attention + time.optimizer)


@pytest.mark.parametrize("recomputation", ["selective", "full"])
def test_recomputation_repeats_what_it_says(recomputation: str) -> None:
    model = llama()
    time = step_time(model, 2048, replace(ONE, recomputation=recomputation), ARITHMETIC)
    again = ONE.samples * 2048 * recomputed_flops_per_token(model, 2048, recomputation)
    attention = ONE.samples * 2048 * recomputed_flops_per_token(model, 2048, "selective")
    expected = (again - attention) / A100.product_rate + attention / 2 / A100.attention_rate
    assert time.recomputation == pytest.approx(expected, rel=1e-3)


def test_the_bubble_is_that_of_the_paper() -> None:
    """Narayanan et al. 2021, sections 2.2.1 and 2.2.2: (p - 1) / m of the time of the micro-batches, divided by the
    parts of each stage; here without the head, which makes the last stage longer."""
    model = llama(vocabulary_size=1)
    layout = Layout(1, 8, 1, 1, 16)
    time = step_time(model, 2048, layout, ARITHMETIC, EVEN)
    whole = time.products + time.attention
    assert time.bubble / whole == pytest.approx(7 / 16, rel=0.02)
    parts = step_time(model, 2048, replace(layout, interleaving=4), ARITHMETIC, EVEN)
    assert parts.bubble == pytest.approx(time.bubble / 4)


def test_a_longer_last_stage_holds_all_up() -> None:
    model = llama(vocabulary_size=256000)
    layout = Layout(1, 8, 1, 1, 16)
    even, balanced = (step_time(model, 2048, layout, ARITHMETIC, software) for software in (EVEN, Software()))
    assert balanced.total < 0.8 * even.total


def test_data_axis_sends_what_a_ring_sends() -> None:
    """Gradients in four bytes and weights in two; eight ranks of a node share its ports, and with tensor 8 each has
    one."""
    model = llama()
    weights = 32 * (4096 * 128 * (2 * 32 + 2 * 8) + 3 * 4096 * 11008) + 32000 * 4096
    hardware = replace(ARITHMETIC, network_rate=25e9)
    for tensor, share in ((1, 8), (8, 1)):
        time = step_time(model, 2048, Layout(tensor, 1, 16, 1, 1), hardware)
        rate = 25e9 * hardware.network * share
        assert time.data == pytest.approx(15 / 16 * weights / tensor * 6 / rate, rel=1e-6)
    inside = step_time(model, 2048, Layout(2, 1, 4, 1, 1), replace(hardware, link_rate=300e9))
    assert inside.data == pytest.approx(3 / 4 * weights / 2 * 6 / (300e9 * hardware.link), rel=1e-6)


def test_tensor_axis_sums_the_residual_four_times_a_block() -> None:
    model, layout = llama(), Layout(4, 1, 1, 2, 1)
    hardware = replace(ARITHMETIC, link_rate=300e9)
    block = block_time(model, 2048, layout, hardware)
    once = all_reduce(2 * 2 * 2048 * 4096, 4, 300e9 * hardware.link, 0.0)
    assert once == pytest.approx(2 * 3 / 4 * 2 * 2 * 2048 * 4096 / (300e9 * 0.75))
    assert block.forward.tensor == pytest.approx(2 * once)
    into = 2 * 2 * 2048 * 4096 * (128 * (32 + 16) + 2 * 11008) / 4 / hardware.product_rate
    assert block.backward.tensor == pytest.approx(max(0.0, 2 * once - into))
    split = block_time(model, 2048, replace(layout, sequence=True), hardware)
    assert split.backward.tensor == pytest.approx(once)
    assert head_time(model, 2048, layout, hardware).tensor == pytest.approx(once)


def test_context_axis_divides_the_tokens_and_gathers_keys() -> None:
    """Two bytes of each key and value forward, four of their gradients backward; the weights stay whole."""
    model = llama()
    one, four = (step_time(model, 2048, replace(ONE, context=degree), ARITHMETIC) for degree in (1, 4))
    assert four.products == pytest.approx(one.products / 4) and four.attention == pytest.approx(one.attention / 4)
    assert four.optimizer == pytest.approx(one.optimizer, rel=0.5) and four.context < 1e-12
    hardware = replace(ARITHMETIC, link_rate=300e9)
    for tensor in (1, 2):
        layout = replace(ONE, tensor=tensor, context=4)
        sent = 3 / 4 * 2 * 2048 * 2 * 8 * 128 / tensor / (300e9 * hardware.link)
        block = block_time(model, 2048, layout, hardware)
        assert (block.forward.context, block.backward.context) == pytest.approx((2 * sent, 4 * sent))
        again = block.both("selective").recomputation
        assert again == pytest.approx(block.forward.attention + 2 * sent)
    between = replace(ARITHMETIC, network_rate=25e9)
    apart = block_time(model, 2048, replace(ONE, tensor=8, context=4), between).forward.context
    assert apart == pytest.approx(3 / 4 * 2 * 2048 * 2 * 8 * 128 / 8 * 2 / (25e9 * between.network))
    assert step_time(model, 2048, replace(ONE, context=4, data=2), hardware).data > 0


def test_stages_receive_and_send_once_each_way() -> None:
    model = llama()
    hardware = replace(ARITHMETIC, network_rate=25e9)
    time = step_time(model, 2048, Layout(8, 2, 1, 1, 10), hardware, EVEN)
    assert time.pipeline == pytest.approx(10 * 2 * 2 * 2048 * 4096 / 8 / (25e9 * hardware.network))
    hidden = step_time(model, 2048, Layout(8, 2, 1, 1, 10), hardware, replace(EVEN, overlaps_pipeline=True))
    assert hidden.pipeline == 0.0


def test_frozen_weights_have_no_gradients() -> None:
    model = llama()
    whole, adapters = (step_time(model, 2048, ONE, ARITHMETIC, trained_share=share) for share in (1.0, 0.0))
    blocks = ONE.samples * 2048 * 2 * 32 * (4096 * 128 * (2 * 32 + 2 * 8) + 3 * 4096 * 11008)
    assert (whole.products - adapters.products) * A100.product_rate == pytest.approx(blocks)
    assert adapters.optimizer < 0.01


@pytest.mark.parametrize(
    ("sequence", "recomputation", "forward", "backward"),
    [
        (False, "none", 7.7, 11.9),
        (True, "none", 7.2, 11.8),
        (False, "full", 7.7, 19.5),
        (False, "selective", 7.7, 13.2),
        (True, "selective", 7.2, 13.1),
    ],
)
def test_blocks_take_what_the_paper_measured(
    sequence: bool, recomputation: str, forward: float, backward: float
) -> None:
    """Milliseconds of a block of the 22B model, tensor 8, micro-batch 4: Korthikanti et al. 2022, table 4."""
    model = llama(family="gpt3", vocabulary_size=51200, hidden_size=6144, attention_heads=64, feed_forward_size=24576)
    model = model.model_copy(update={"key_value_heads": 64, "activation": "gelu_tanh"})
    layout = Layout(8, 1, 1, 4, 1, sequence, recomputation)  # type: ignore[arg-type]
    block = block_time(model, 2048, layout, A100, MEGATRON_2021)
    both = block.both(layout.recomputation).total
    assert block.forward.total * 1000 == pytest.approx(forward, rel=0.1)
    assert (both - block.forward.total) * 1000 == pytest.approx(backward, rel=0.1)
