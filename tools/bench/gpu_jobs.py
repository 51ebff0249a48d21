"""What one process of `altiplano bench gpu` measures; each job returns rows of numbers by name."""

from __future__ import annotations

import contextlib
import hashlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

import pretrain.engine.engine as engine_module
from pretrain.config import ModelConfig
from pretrain.families.mapping import parameter_count
from pretrain.model.head_loss import LOGITS_BYTES
from pretrain.monitor.flops import PEAK_BF16_FLOPS, model_flops_per_token
from pretrain.monitor.profiling import operation_times
from tools.bench.train import Step, make_engine, make_pytorch, make_transformers, step_of, training_step

Row = dict[str, Any]
KERNELS_SHOWN = 14
STEPS, UNTIMED_STEPS = 4, 2
SEED = 1


@dataclass(frozen=True)
class Shape:
    """A model and how it is trained, on one device.

    Attributes:
        tokens: of a sample.
    """

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    feed_forward: int
    vocabulary: int
    tokens: int
    micro_batch: int
    accumulation: int

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(
            vocabulary_size=self.vocabulary,
            hidden_size=self.hidden,
            layers=self.layers,
            attention_heads=self.heads,
            key_value_heads=self.key_value_heads,
            feed_forward_size=self.feed_forward,
            maximum_positions=self.tokens,
        )

    @property
    def parameters(self) -> int:
        return parameter_count(self.model)


SHAPES = {
    "1.35B": Shape(2048, 24, 16, 16, 5504, 32000, 2048, 4, 4),
    "1.5B, vocabulary 128k": Shape(2048, 16, 32, 8, 8192, 128256, 4096, 2, 4),
    "8B's block × 10": Shape(4096, 10, 32, 8, 14336, 128256, 8192, 1, 4),
    "tiny": Shape(64, 2, 4, 2, 96, 512, 32, 2, 2),
}
"""LLaMA's own 1.3B shape, LLaMA 3's 1B with a head of its own, and ten layers of its 8B: state is 18 bytes a weight, so
that all of the 8B would not fit beside its activations. Tiny: to see that everything runs."""


@dataclass(frozen=True)
class Variant:
    """Ours with one thing changed.

    Attributes:
        settings: of the run.
        without: functions of the engine's module that do nothing.
        logits_bytes: of logits in memory at a time; None: as shipped.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    logits_bytes: int | None = None


VARIANTS = {
    "as shipped": Variant(),
    "not compiled": Variant({"compile": "off"}),
    "64 MiB of logits at a time": Variant(logits_bytes=1 << 26),
    "flash attention": Variant({"attention_backend": "flash"}),
    "cuDNN attention": Variant({"attention_backend": "cudnn"}),
    "deterministic": Variant({"deterministic": True}),
    "DeepSpeed's own addition of gradients": Variant(without=("add_gradients_without_copies",)),
    "DeepSpeed's own step": Variant(without=("step_without_waiting", "reduce_in_place")),
    "full recomputation": Variant({"recomputation": "full"}),
}


def ceilings(device: str, size: int) -> Iterator[Row]:
    """Speed of products, copies and attention, which bound everything else.

    Args:
        size: rows of the square product.
    """
    dtype = torch.bfloat16
    for rows, inner, columns in ((size, size, size), (size, size // 4, size * 11 // 32), (size, size // 2, size * 4)):
        a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((rows, inner), (columns, inner)))
        rate = 2 * rows * inner * columns / _seconds(partial(torch.matmul, a, b.T), device)
        yield {"what": f"product {rows} × {inner} × {columns}", "TFLOP/s": rate / 1e12}
    x = torch.randn(size * size, device=device)
    y = torch.empty_like(x)
    yield {
        "what": f"copy of {4 * size**2 / 2**20:.0f} MiB",
        "TB/s": 8 * x.numel() / _seconds(lambda: y.copy_(x), device) / 1e12,
    }
    for heads, key_value_heads, length, batch in ((16, 16, size // 4, 4), (32, 8, size, 1)):
        yield from _attention(device, heads, key_value_heads, length, batch)


def _attention(device: str, heads: int, key_value_heads: int, length: int, batch: int) -> Iterator[Row]:
    shapes = [(batch, number, length, 128) for number in (heads, key_value_heads, key_value_heads)]
    q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for shape in shapes)
    backends = [None, SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    for backend in backends if device == "cuda" else backends[:1]:
        name = f"attention {batch} × {heads} heads × {length}, {backend.name.lower() if backend else 'as chosen'}"

        def attend() -> torch.Tensor:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        def there_and_back() -> None:
            torch.autograd.grad(attend().sum(), (q, k, v))

        with contextlib.nullcontext() if backend is None else sdpa_kernel(backend):
            try:
                forward, both = (_seconds(function, device) for function in (attend, there_and_back))
            except RuntimeError as error:
                yield {"what": name, "failed": _first_line(error)}
                continue
        flops = 2 * batch * heads * length**2 * 128  # of two products, half of which is masked
        yield {"what": name, "TFLOP/s": flops / forward / 1e12, "and back": 3.5 * flops / both / 1e12}


def _seconds(function: Callable[[], object], device: str, calls: int = 10) -> float:
    """Seconds of a call, on average."""
    for _ in range(3):
        function()
    started = _now(device)
    for _ in range(calls):
        function()
    return (_now(device) - started) / calls


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def ours(device: str, shape: Shape, name: str) -> Iterator[Row]:
    """Steps of our engine in a variant; with the first one, the share of a step in which kernels run, and the longest
    ones."""
    step = step_of(_engine(device, shape, VARIANTS[name]), shape.micro_batch)
    yield {"what": f"ours, {name}", **_timed(device, shape, step)}
    if name == next(iter(VARIANTS)):
        yield from _kernels(device, shape, step)


def _engine(device: str, shape: Shape, variant: Variant) -> engine_module.Engine:
    if variant.settings.get("deterministic"):
        from pretrain.device import use_fixed_order

        use_fixed_order()
    for name in variant.without:
        assert callable(getattr(engine_module, name))
        vars(engine_module)[name] = lambda *arguments: None
    if variant.logits_bytes is not None:
        LOGITS_BYTES[device] = variant.logits_bytes
    return make_engine(shape.model, "bf16", shape.micro_batch, shape.accumulation, **variant.settings)


def peer(device: str, shape: Shape, name: str) -> Iterator[Row]:
    """Steps of another program."""
    yield {"what": name, **_timed(device, shape, PEERS[name](shape, device))}


def _torchtitan(shape: Shape, device: str) -> Step:
    """torchtitan's Llama 3, of its release 0.3."""
    from torchtitan.models import llama3

    head_size = shape.hidden // shape.heads
    layers = llama3._build_llama3_layers(
        n_layers=shape.layers,
        dim=shape.hidden,
        n_heads=shape.heads,
        n_kv_heads=shape.key_value_heads,
        hidden_dim=shape.feed_forward,
        rope=llama3.ComplexRoPE.Config(dim=head_size, max_seq_len=shape.tokens, theta=10000, scaling="none"),
        attn_backend="sdpa",
    )
    config = llama3.Llama3Model.Config(
        dim=shape.hidden,
        vocab_size=shape.vocabulary,
        tok_embeddings=llama3.Embedding.Config(
            num_embeddings=shape.vocabulary, embedding_dim=shape.hidden, param_init=llama3._EMBEDDING_INIT
        ),
        norm=llama3.RMSNorm.Config(normalized_shape=shape.hidden, param_init=llama3._NORM_INIT),
        lm_head=llama3.Linear.Config(
            in_features=shape.hidden,
            out_features=shape.vocabulary,
            param_init=llama3._output_linear_init(shape.hidden),
        ),
        layers=layers,
    )
    with torch.device(device):
        decoder = config.build()
        decoder.init_states()

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = decoder

        def forward(self, tokens_BS: torch.Tensor, targets_BS: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(self.decoder(tokens_BS).flatten(0, 1).float(), targets_BS.flatten())

    return training_step(Loss(), "bf16", shape.micro_batch, compiled=True, device=device)


PEERS: dict[str, Callable[[Shape, str], Step]] = {
    "plain PyTorch, compiled": lambda shape, device: make_pytorch(
        shape.model, "bf16", shape.micro_batch, compiled=True, device=device
    ),
    "transformers, compiled": lambda shape, device: make_transformers(
        shape.model, "bf16", shape.micro_batch, compiled=True, device=device
    ),
    "torchtitan, compiled": _torchtitan,
}
"""fp32 weights under autocast, torch's fused attention, fused AdamW, torch.compile."""


def bits(device: str, shape: Shape, name: str) -> Iterator[Row]:
    """A digest of all weights and moments after a few steps of a variant."""
    engine = _engine(device, shape, VARIANTS[name])
    step = step_of(engine, shape.micro_batch)
    tokens, targets = _batch(device, shape)
    for _ in range(STEPS):
        step(tokens, targets)
    found = hashlib.sha256()
    for fragment in engine.fragments():
        for state in sorted(fragment.states):
            found.update(fragment.states[state].cpu().numpy().tobytes())
    yield {"what": f"bits, {name}", "digest": found.hexdigest()[:16]}


def _batch(device: str, shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    size = shape.micro_batch * shape.accumulation, shape.tokens + 1
    tokens = torch.randint(0, shape.vocabulary, size, generator=torch.Generator().manual_seed(SEED)).to(device)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def _timed(device: str, shape: Shape, step: Step) -> Row:
    """Median and spread of a step, speed, MFU and memory."""
    tokens, targets = _batch(device, shape)
    started = _now(device)
    losses = [step(tokens, targets) for _ in range(UNTIMED_STEPS)]
    starting = _now(device) - started
    seconds = []
    for _ in range(STEPS):
        started = _now(device)
        losses.append(step(tokens, targets))
        seconds.append(_now(device) - started)
    if not losses[-1] < losses[0]:
        raise RuntimeError(f"the loss on one batch went from {losses[0]} to {losses[-1]}: it does not train")
    middle = statistics.median(seconds)
    flops = tokens.numel() * model_flops_per_token(shape.model, shape.tokens) / middle
    row: Row = {
        "step, s": middle,
        "spread, s": max(seconds) - min(seconds),
        "first steps, s": starting,
        "tokens/s": tokens.numel() / middle,
        "TFLOP/s": flops / 1e12,
    }
    if device == "cuda":
        row["MFU"] = flops / _peak()
        row["memory, GiB"] = torch.cuda.max_memory_allocated() / 2**30
        row["reserved, GiB"] = torch.cuda.max_memory_reserved() / 2**30
        row["retries"] = torch.cuda.memory_stats()["num_alloc_retries"]
    return row


def _peak() -> float:
    name = torch.cuda.get_device_name()
    known = [part for part in PEAK_BF16_FLOPS if part in name]
    return PEAK_BF16_FLOPS[max(known, key=len)] if known else float("nan")


def _kernels(device: str, shape: Shape, step: Step) -> Iterator[Row]:
    """Share of a step in which kernels run, and the longest ones; on a CPU operators stand for kernels."""
    tokens, targets = _batch(device, shape)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        started = _now(device)
        step(tokens, targets)
        wall = _now(device) - started
    on_gpu = device == "cuda"
    found = operation_times(profiler, on_gpu)
    busy = sum(operation.seconds for operation in found)
    yield {"what": "kernels run", "share": busy / wall, "calls": sum(operation.calls for operation in found)}
    for operation in found[:KERNELS_SHOWN]:
        yield {"what": f"kernel {operation.name[:80]}", "seconds": operation.seconds, "calls": operation.calls}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
