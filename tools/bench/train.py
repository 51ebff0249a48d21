"""Training steps of one process, by processor time: ours, a plain PyTorch loop, transformers; eager and compiled."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from foundation.progress import Progress
from pretrain.config import ModelConfig, TrainConfig
from pretrain.model.positions import rotary_table
from pretrain.monitor.flops import bf16_slowdown, model_flops_per_token
from tools.bench.memory import peak_bytes
from tools.bench.page import show

if TYPE_CHECKING:
    from pretrain.engine.engine import Engine

CONTENDERS = ("ours", "pytorch", "pytorch+compile", "hf", "hf+compile")
PRECISIONS = ("bf16", "fp32")
EMULATED_BF16 = 2.0
"""Factor by which bf16 is slower than fp32 from which on a processor is taken to emulate it: nobody trains on one in
bf16, and timing it would take hours."""
MATMUL_SIZE = 2048
LEARNING_RATE = 3e-4

Step = Callable[[torch.Tensor, torch.Tensor], float]
"""tokens [B, S] and targets [B, S], int64 -> loss after the update"""


def main(arguments: list[str]) -> int:
    """Run every contender in its own process, in turn, and print medians and ratios."""
    parser = argparse.ArgumentParser(prog="altiplano bench train", description=__doc__)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--feed-forward", type=int, default=1376)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4, help="timed steps per round, after two untimed steps")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all contenders")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, help="default: both, or fp32 alone where bf16 is emulated"
    )
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--one", nargs=2, metavar=("CONTENDER", "PRECISION"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    model = ModelConfig(
        vocabulary_size=given.vocabulary,
        hidden_size=given.hidden,
        layers=given.layers,
        attention_heads=given.heads,
        key_value_heads=given.heads,
        feed_forward_size=given.feed_forward,
        maximum_positions=given.sequence,
    )
    if given.one:
        name, precision = given.one
        print(json.dumps(time_one(name, precision, model, given.micro_batch, given.steps)))
        return 0

    if given.precisions is None:
        given.precisions = timed_precisions()
    runs = [(name, precision) for precision in given.precisions for name in given.contenders]
    results: dict[tuple[str, str], list[dict[str, float]]] = {run: [] for run in runs}
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
    with Progress("bench", given.rounds * len(runs), "processes") as progress:
        for _ in range(given.rounds):
            for run in runs:
                command = [sys.executable, "-m", "tools.bench", "train", *arguments, "--one", *run]
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                if done.returncode and run[0] == "ours":
                    print(done.stderr, file=sys.stderr)
                    return 1
                if not done.returncode:
                    results[run].append(json.loads(done.stdout.splitlines()[-1]))
                progress.advance()
    rows = []
    for precision in given.precisions:
        peak = statistics.median(
            result["matmul_flops"] for run in runs if run[1] == precision for result in results[run]
        )
        ours = statistics.median(result["tokens_per_second"] for result in results["ours", precision])
        for name in given.contenders:
            found = results[name, precision]
            if not found:  # a peer that fails gets a row saying so
                rows.append((name, precision, "failed", "", "", ""))
                continue
            speed = statistics.median(result["tokens_per_second"] for result in found)
            utilisation = speed * model_flops_per_token(model, given.sequence) / peak
            memory = max(result["peak_bytes"] for result in found)
            rows.append(
                (name, precision, f"{speed:,.0f}", f"{ours / speed:.2f}", f"{utilisation:.0%}", f"{memory / 1e9:.2f}")
            )
    title = f"{given.rounds} rounds in turns, {given.threads} thread, medians; peak is a {MATMUL_SIZE}³ product"
    columns = ("program", "precision", "tokens / processor s", "ours ÷ it", "of peak", "memory, GB")
    show(title, rows, columns)
    return 0


def timed_precisions() -> list[str]:
    """Precisions worth timing on this machine; says so when one is left out."""
    factor = bf16_slowdown()
    if factor < EMULATED_BF16:
        return list(PRECISIONS)
    print(f"bf16 takes this processor {factor:.1f} times as long as fp32, which alone is timed")
    return ["fp32"]


def time_one(name: str, precision: str, model: ModelConfig, micro_batch: int, steps: int) -> dict[str, float]:
    """Tokens per processor second, peak memory, and the speed of a matrix product in the same precision on this
    machine."""
    torch.manual_seed(1)
    step = MAKERS[name](model, precision, micro_batch)
    tokens = torch.randint(0, model.vocabulary_size, (micro_batch, model.maximum_positions + 1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    for _ in range(2):
        loss = step(inputs, targets)
    # Processor time: wall time would include whatever else runs on the machine.
    started = time.process_time()
    for _ in range(steps):
        loss = step(inputs, targets)
    seconds = time.process_time() - started
    if not loss < math.log(model.vocabulary_size):  # six steps on the same batch: the loss must have fallen
        raise RuntimeError(f"{name} {precision}: loss {loss} after {steps + 2} steps on one batch: it does not train")
    return {
        "tokens_per_second": steps * inputs.numel() / seconds,
        "peak_bytes": peak_bytes(),
        "matmul_flops": matmul_flops(torch.bfloat16 if precision == "bf16" else torch.float32),
        "loss": loss,
    }


def matmul_flops(dtype: torch.dtype) -> float:
    """FLOP per second of processor time of the product of two square matrices, best of five."""
    a, b = (torch.randn(MATMUL_SIZE, MATMUL_SIZE).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(5):
        started = time.process_time()
        a @ b
        best = min(best, time.process_time() - started)
    return 2 * MATMUL_SIZE**3 / best


def make_engine(model: ModelConfig, precision: str, micro_batch: int, accumulation: int = 1, **settings: Any) -> Engine:
    """Our engine with one process, on its device.

    Args:
        settings: more of the configuration.
    """
    from pretrain.engine.engine import Engine
    from pretrain.engine.processes import join_processes
    from pretrain.topology import Topology

    join_processes(600)
    config = TrainConfig.model_validate(
        {
            "output": "unused",
            "model": model.model_dump(),
            "data": {"mixture": "unused", "sequence_length": model.maximum_positions},
            "batch": {"global_batch_size": micro_batch * accumulation, "micro_batch_size": micro_batch},
            "optimizer": {"learning_rate": LEARNING_RATE},
            "schedule": {"total_steps": 100, "warmup_steps": 1},
            "precision": precision,
            **settings,
        }
    )
    return Engine(config, Topology(1, 1, 1))


def make_ours(model: ModelConfig, precision: str, micro_batch: int, accumulation: int = 1, **settings: Any) -> Step:
    """A step of our engine; see `make_engine`."""
    return step_of(make_engine(model, precision, micro_batch, accumulation, **settings), micro_batch)


def step_of(engine: Engine, micro_batch: int) -> Step:
    """A step of an engine."""

    def step(tokens: torch.Tensor, targets: torch.Tensor) -> float:
        batches = zip(tokens.split(micro_batch), targets.split(micro_batch), strict=True)
        return engine.train_step(batches, LEARNING_RATE).loss

    return step


def plain_rotation(x_BSHE: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding as a plain formula that a compiler fuses into its graph; ours has a gradient of its own."""
    first, second = x_BSHE.float().chunk(2, -1)
    cos, sin = cos[: x_BSHE.shape[1], None], sin[: x_BSHE.shape[1], None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x_BSHE.dtype)


class PlainBlock(nn.Module):
    """A LLaMA block as one would write it for a single device."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        size, inner = model.hidden_size, model.feed_forward_size
        self.head_size = model.head_size
        self.sizes = [heads * model.head_size for heads in (model.attention_heads, *(model.key_value_heads,) * 2)]
        self.attention_norm, self.mlp_norm = nn.RMSNorm(size, model.norm_epsilon), nn.RMSNorm(size, model.norm_epsilon)
        self.qkv, self.output = nn.Linear(size, sum(self.sizes), bias=False), nn.Linear(size, size, bias=False)
        self.gate_up, self.down = nn.Linear(size, 2 * inner, bias=False), nn.Linear(inner, size, bias=False)

    def forward(self, x_BSD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, length, size = x_BSD.shape
        parts = self.qkv(self.attention_norm(x_BSD)).split(self.sizes, -1)
        q, k, v = (part.view(batch, length, -1, self.head_size) for part in parts)
        q, k = (plain_rotation(part, cos, sin) for part in (q, k))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.sizes[1] != self.sizes[0])
        x = x_BSD + self.output(mixed.transpose(1, 2).reshape(batch, length, size))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class PlainModel(nn.Module):
    """LLaMA without any parallelism, in the manner of nanoGPT."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(model.vocabulary_size, model.hidden_size)
        self.blocks = nn.ModuleList(PlainBlock(model) for _ in range(model.layers))
        self.norm = nn.RMSNorm(model.hidden_size, model.norm_epsilon)
        self.head = nn.Linear(model.hidden_size, model.vocabulary_size, bias=False)
        table = rotary_table(model.maximum_positions, model.head_size, model.rope_theta, model.rope_scaling)
        for name, angles in zip(("cos", "sin"), table, strict=True):
            self.register_buffer(name, angles, persistent=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=model.initial_std)

    def forward(self, tokens_BS: torch.Tensor, targets_BS: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens_BS)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1).float(), targets_BS.flatten())


def make_pytorch(
    model: ModelConfig, precision: str, micro_batch: int, compiled: bool = False, device: str = "cpu"
) -> Step:
    """fp32 weights under autocast, clipping, fused AdamW."""
    with torch.device(device):
        return training_step(PlainModel(model), precision, micro_batch, compiled, device)


def make_transformers(
    model: ModelConfig,
    precision: str,
    micro_batch: int,
    compiled: bool = False,
    device: str = "cpu",
    rank: int | None = None,
) -> Step:
    """transformers' LlamaForCausalLM with scaled_dot_product_attention, fp32 weights under autocast.

    Args:
        rank: of PEFT's adapters beside all linear layers, with all else frozen; None: all weights are trained.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=model.vocabulary_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.feed_forward_size,
        num_hidden_layers=model.layers,
        num_attention_heads=model.attention_heads,
        num_key_value_heads=model.key_value_heads,
        max_position_embeddings=model.maximum_positions,
        use_cache=False,
    )
    with torch.device(device):
        llama: Any = LlamaForCausalLM(config)
    llama.set_attn_implementation("sdpa")
    if rank is not None:
        from peft import LoraConfig, get_peft_model

        llama = get_peft_model(llama, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.llama = llama

        def forward(self, tokens_BS: torch.Tensor, targets_BS: torch.Tensor) -> torch.Tensor:
            logits = self.llama(tokens_BS).logits
            return F.cross_entropy(logits.flatten(0, 1).float(), targets_BS.flatten())

    return training_step(Loss(), precision, micro_batch, compiled, device)


def training_step(model: nn.Module, precision: str, micro_batch: int, compiled: bool, device: str = "cpu") -> Step:
    """Forward and backward pass of each micro-batch, clipping and fused AdamW."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward = torch.compile(model) if compiled else model

    def step(tokens: torch.Tensor, targets: torch.Tensor) -> float:
        total = torch.zeros((), device=device)
        micro_batches = len(tokens) // micro_batch
        for part in zip(tokens.split(micro_batch), targets.split(micro_batch), strict=True):
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                loss = forward(*part) / micro_batches
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(total)

    return step


MAKERS: dict[str, Callable[[ModelConfig, str, int], Step]] = {
    "ours": make_ours,
    "pytorch": make_pytorch,
    "pytorch+compile": lambda model, precision, batch: make_pytorch(model, precision, batch, compiled=True),
    "hf": make_transformers,
    "hf+compile": lambda model, precision, batch: make_transformers(model, precision, batch, compiled=True),
}
