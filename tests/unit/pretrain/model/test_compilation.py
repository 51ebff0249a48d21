"""One graph per block for every family and layout, nothing falls back, and the plain loss has the CPU's gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo as dynamo
import torch._dynamo.config
from torch.nn.attention import flex_attention as torch_flex

from pretrain.config import ModelConfig
from pretrain.device import group_alone
from pretrain.model import attention
from pretrain.model.adapter import add_adapters
from pretrain.model.block import Block
from pretrain.model.compilation import VARIANTS_OF_A_LENGTH, is_compiled, refuse_fallbacks
from pretrain.model.head_loss import LossSettings, losses_and_gradient, losses_and_gradient_plain, rows_at_once
from pretrain.model.init import whole_weight
from pretrain.model.linear import TensorParallel
from pretrain.tuning import AdapterConfig, adapter_shapes
from tests.attention_cases import KINDS, seen_by
from tests.unit.pretrain.families.small import SMALL, small_model

LENGTH = 40


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    dynamo.reset()
    with warnings.catch_warnings(), torch._dynamo.config.patch({}):
        yield
    dynamo.reset()


class Counter:
    """A backend that runs what was captured as it is, and counts the graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


def blocks_of(config: ModelConfig, *, recompute_scores: bool = False) -> list[Block]:
    tensor_parallel = TensorParallel(group_alone(), torch.float32)
    blocks = []
    for index in range(3):
        block = Block(config, tensor_parallel, index, recompute_scores=recompute_scores)
        for name, parameter in block.named_parameters():
            with torch.no_grad():
                parameter.copy_(whole_weight(f"layers.{index}.{name}", tuple(parameter.shape), 1, config))
        blocks.append(block)
    return blocks


def layout_of(kind: str, length: int = LENGTH) -> torch.Tensor | None:
    """[2, S, 4], with positions of their own."""
    ranges, _ = seen_by(kind, length)
    if ranges is None:
        return None
    places = torch.arange(length).expand(2, length)
    return torch.cat([ranges, (places % 7)[..., None], torch.zeros_like(places)[..., None]], -1)


def graphs_of(config: ModelConfig, layout: torch.Tensor | None) -> int:
    """Graphs of a model's blocks: two where some layers have a window, and the others no layout."""
    return 2 if (config.full_attention_every or config.full_attention_first) and layout is None else 1


def outputs(blocks: list[Block], layout: torch.Tensor | None, keys: torch.Tensor | None, length: int = LENGTH) -> Any:
    """Output of the blocks one after the other, gradient of the input, gradients of the weights."""
    hidden = blocks[0].attention_norm.weight.numel()
    x = torch.randn(length, 2, hidden, generator=torch.Generator().manual_seed(3)).requires_grad_()
    y = x
    for block in blocks:
        y = block(y, layout, keys)
    parameters = [p for block in blocks for p in block.parameters() if p.requires_grad]
    return [y, *torch.autograd.grad(y.sin().sum(), [x, *parameters])]


def close(ours: Any, reference: Any) -> None:
    for mine, theirs in zip(ours, reference, strict=True):
        mine, theirs = mine.detach(), theirs.detach()
        assert float((mine - theirs).norm() / theirs.norm().clamp_min(1e-12)) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SMALL)
def test_one_graph_serves_all_layers_and_computes_what_the_cpu_does(name: str, kind: str) -> None:
    """A break would be an error; a second graph would show that something differs between layers, as windows do of
    those that are in some layers only, where the others need no layout."""
    config = small_model(name)
    blocks = blocks_of(config)
    reference = outputs(blocks, layout_of(kind), None)
    counter = Counter()
    for block in blocks:
        block.compile_graph(counter)
    for _ in range(2):  # another micro-batch takes no other graph
        close(outputs(blocks, layout_of(kind), None), reference)
    assert counter.graphs == graphs_of(config, layout_of(kind))


@pytest.mark.parametrize("recompute_scores", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_dropout_has_one_graph_and_the_same_masks(name: str, recompute_scores: bool) -> None:
    config = ModelConfig.model_validate(
        {**small_model(name).model_dump(), "hidden_dropout": 0.2, "attention_dropout": 0.2}
    )
    blocks, keys = blocks_of(config, recompute_scores=recompute_scores), torch.tensor([2**61 + 12345, -(2**40) - 7])
    reference = outputs(blocks, None, keys)
    plain = outputs(blocks, None, None)
    assert float((reference[0] - plain[0]).detach().norm() / plain[0].detach().norm()) > 1e-3
    counter = Counter()
    for block in blocks:
        block.compile_graph(counter)
    close(outputs(blocks, None, keys), reference)
    assert counter.graphs == graphs_of(config, None)


@pytest.mark.parametrize("name", ["llama", "bloom", "palm", "gemma2"])
def test_adapters_are_part_of_the_one_graph(name: str) -> None:
    config = small_model(name)
    adapter = AdapterConfig(rank=2, alpha=4, dropout=0.2)
    tensor_parallel = TensorParallel(group_alone(), torch.float32)
    blocks, keys = blocks_of(config), torch.tensor([2**61 + 12345, -(2**40) - 7])
    before = outputs(blocks, None, keys)[0]
    for index, block in enumerate(blocks):
        block.requires_grad_(False)
        add_adapters(block, index, adapter, tensor_parallel)
        for inner, parameter in block.named_parameters():
            if ".lora." in inner:
                with torch.no_grad():
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    reference = outputs(blocks, None, keys)
    assert float((reference[0] - before).detach().norm() / before.detach().norm()) > 1e-2
    assert len(reference) == 2 + 3 * len(adapter_shapes(config, adapter)) // config.layers
    counter = Counter()
    for block in blocks:
        block.compile_graph(counter)
    close(outputs(blocks, None, keys), reference)
    assert counter.graphs == graphs_of(config, None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "bloom", "baichuan-alibi", "glm", "mistral", "gemma2"])
def test_flex_attention_is_part_of_the_graph(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU; torch has no gradients of it on a CPU, so that the forward pass is compared."""
    monkeypatch.setattr(attention, "is_on_gpu", lambda x: True)
    config, layout = small_model(name), layout_of(kind)
    blocks = blocks_of(config)
    with torch.no_grad():
        x = torch.randn(LENGTH, 2, blocks[0].attention_norm.weight.numel())
        reference = x
        for block in blocks:
            reference = block._output(reference, block.attention.seen(reference, layout), None, None)
        counter = Counter()
        for block in blocks:
            block.compile_graph(counter)
        for _ in range(2):
            y, layout = x, layout_of(kind)  # a new mask for each micro-batch
            for block in blocks:
                y = block(y, layout, None)
    seen = blocks[0].attention.seen(x, layout)
    uses_flex = seen is not None or config.positions == "alibi" or config.attention_soft_cap is not None
    assert (blocks[0].attention.tile_mask(x, seen, None) is not None) == uses_flex
    close([y], [reference])
    assert counter.graphs == graphs_of(config, layout)


@pytest.mark.parametrize("gives_up", [False, True])
def test_many_lengths_are_compiled_or_refused(gives_up: bool) -> None:
    """With and without gradients, as in training and evaluation; torch's own limit is eight graphs."""
    lengths = list(range(16, 24))
    blocks, counter = blocks_of(small_model("llama"))[:1], Counter()
    blocks[0].compile_graph(counter)
    refuse_fallbacks(lengths[:2] if gives_up else lengths)

    def run() -> None:
        for length in lengths:
            outputs(blocks, None, None, length)
            with torch.no_grad():
                blocks[0](torch.randn(length, 2, 32))

    if gives_up:
        with pytest.raises(dynamo.exc.FailOnRecompileLimitHit):
            run()
        assert counter.graphs == VARIANTS_OF_A_LENGTH * 3
    else:
        run()
        assert counter.graphs == 2 * len(lengths) > 8


def test_any_function_that_reaches_the_limit_is_an_error() -> None:
    """Also one that is not compiled as a whole, which torch would otherwise go on to run uncompiled."""
    refuse_fallbacks([16])
    counter = Counter()
    compiled = torch.compile(lambda x: x.sin(), backend=counter, dynamic=False)
    with pytest.raises(dynamo.exc.FailOnRecompileLimitHit):
        for length in range(2, 60):
            compiled(torch.ones(length))
    assert counter.graphs == VARIANTS_OF_A_LENGTH * 2


def test_uncompiled_flex_attention_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_flex, "_WARNINGS_SHOWN", set())  # torch warns once a process, maybe in another test
    refuse_fallbacks([16])
    q = torch.randn(1, 2, 16, 16)
    with pytest.raises(UserWarning, match=r"flex_attention called without torch\.compile"):
        torch_flex.flex_attention(q, q, q)


def test_auto_is_for_gpus() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert [is_compiled(choice, cpu) for choice in ("auto", "on", "off")] == [False, True, False]
    assert [is_compiled(choice, gpu) for choice in ("auto", "on", "off")] == [True, True, False]


@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"label_smoothing": 0.1, "z_loss": 1e-2, "maximum_z_loss": 1e-2},
        {"label_smoothing": 0.1, "z_loss": 1e-2, "maximum_z_loss": 1e-2, "logit_soft_cap": 5.0},
    ],
    ids=["plain", "all terms", "all terms, capped"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_plain_loss_is_that_of_the_cpu(dtype: torch.dtype, terms: dict[str, float]) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(50, 256, generator=generator)).to(dtype)
    logits[7, 3] = logits[7, 5] = logits[7].max() + 1  # two largest ones
    targets = torch.randint(0, 250, (50,), generator=generator)
    shares = torch.rand(50, generator=generator) * (torch.arange(50) % 5 > 0)
    largest = torch.tensor(-torch.inf)
    reference = logits.clone()
    settings = LossSettings(250, largest_logit=largest, **terms)
    expected = losses_and_gradient(reference, targets, shares, group_alone(), settings, wants_grad=True)
    weights = settings.label_smoothing, settings.z_loss, settings.maximum_z_loss, settings.logit_soft_cap
    totals, gradient, top = losses_and_gradient_plain(logits, targets, shares, group_alone(), 250, *weights)
    torch.testing.assert_close(totals, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, reference, rtol=1e-5 if dtype == torch.float32 else 2**-7, atol=1e-7)
    assert float(top) == float(largest)


def test_a_gpu_computes_whole_tiles_of_logits() -> None:
    assert rows_at_once("cuda", 2 * 128_000) % 128 == 0 and rows_at_once("cuda", 2 * 128_000) > 4000
    assert rows_at_once("cuda", 1 << 40) == 128
    assert rows_at_once("cpu", 2 * 128_000) == 262
