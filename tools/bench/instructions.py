"""Instruction tuning by processor time: conversations to tokens and masks, packing, training on packs, adapters.

Tokens and masks: ours beside transformers' `apply_chat_template` with `return_assistant_tokens_mask`, one thread, the
same conversations, tokenizer and template. Packing: ours beside TRL's `pack_dataset`, best-fit decreasing over all of
the data too, which also moves the tokens. Packs: our training step on packs of conversations beside the same step on
plain text. Adapters: ours beside PEFT on transformers, of the same rank on all linear layers.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from data_prep.conversations.encoding import ChatSettings, ConversationEncoder, control_names
from data_prep.conversations.jinja import chat_template
from data_prep.conversations.packing import pack_of_each
from data_prep.conversations.templates import load_template
from data_prep.conversations.turns import ASSISTANT, USER, Conversation, Turn
from data_prep.tokenizer.encoding.encode import ReferenceEncoder, open_encoder
from data_prep.tokenizer.encoding.token_bytes import TokenBytes
from foundation.progress import Progress
from pretrain.config import ModelConfig
from pretrain.data.objective import separate_documents
from tools.bench.memory import peak_bytes
from tools.bench.page import show
from tools.bench.train import LEARNING_RATE, make_engine, make_ours, make_transformers

TEMPLATE = "vicuna-1.1"
PACK = 2048
RANK = 8
_ROUNDS_OF_TALK = 2
_LINES_OF_AN_ANSWER = 16
_COMPARED = 200
"""Conversations whose tokens and masks are compared with transformers'."""

Result = dict[str, float]


def main(arguments: list[str]) -> int:
    """Run every contender in its own process, in turn, and print medians and ratios."""
    parser = argparse.ArgumentParser(prog="altiplano bench instructions", description=__doc__)
    parser.add_argument(
        "--run", type=Path, default=Path("runs/demo"), help="a finished data_prep run with its tokenizer"
    )
    parser.add_argument("--conversations", type=int, default=20_000, help="to encode; transformers gets a tenth")
    parser.add_argument("--packed", type=int, default=1_000_000, help="conversations to pack; TRL gets a tenth")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4, help="timed steps per round, after two untimed steps")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all contenders")
    parser.add_argument("--one", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(CONTENDERS[given.one](given)))
        return 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    results: dict[str, list[Result]] = {name: [] for name in CONTENDERS}
    with Progress("bench", given.rounds * len(CONTENDERS), "processes") as progress:
        for _ in range(given.rounds):
            for name, found in results.items():
                command = [sys.executable, "-m", "tools.bench", "instructions", *arguments, "--one", name]
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                if done.returncode and name.startswith("ours"):
                    print(done.stderr, file=sys.stderr)
                    return 1
                if not done.returncode:
                    found.append(json.loads(done.stdout.splitlines()[-1]))
                progress.advance()
    _show(results, given.rounds)
    return 0


def _show(results: dict[str, list[Result]], rounds: int) -> None:
    """Print a table for each pair; a peer that fails gets a row saying so."""
    for title, ours, peer, columns in TABLES:
        medians = {
            name: {key: statistics.median(one[key] for one in results[name]) for key in results[name][0]}
            for name in (ours, peer)
            if results[name]
        }
        speed = next(iter(columns))
        rows = []
        for name in (ours, peer):
            if name not in medians:
                rows.append([name, "failed", *[""] * len(columns)])
                continue
            ratio = "" if name == ours else f"{medians[ours][speed] / medians[name][speed]:.2f}"
            rows.append([name, *(f"{medians[name][key] * scale:,.4g}" for key, (_, scale) in columns.items()), ratio])
        show(f"{title}; medians of {rounds} rounds", rows, ["", *(name for name, _ in columns.values()), "ours ÷ it"])


# --- conversations to tokens and masks --------------------------------------------------------------------------------


def conversations(run: Path, count: int) -> Iterator[Conversation]:
    """Conversations made of the lines of a run's corpus, the same each time: questions of a line, answers of up to
    sixteen."""
    lines = [
        line
        for shard in sorted((run / "corpus").glob("*.parquet"))
        for text in pq.read_table(shard, columns=["text"])["text"].to_pylist()
        for line in text.split("\n")
        if len(line.strip()) > 20
    ]
    source = np.random.default_rng(1)
    for _ in range(count):
        sizes = source.integers(1, _LINES_OF_AN_ANSWER + 1, _ROUNDS_OF_TALK).tolist()
        lengths = [count for size in sizes for count in (1, size)]
        chosen = iter(source.integers(0, len(lines), sum(lengths)).tolist())
        texts = ("\n".join(lines[next(chosen)] for _ in range(length)) for length in lengths)
        yield tuple(Turn(role, text) for role, text in zip((USER, ASSISTANT) * _ROUNDS_OF_TALK, texts, strict=True))


def _encoder(run: Path) -> ConversationEncoder:
    reference = ReferenceEncoder(run / "tokenizer")
    settings = ChatSettings(TEMPLATE, load_template(TEMPLATE))
    return ConversationEncoder(settings, reference, open_encoder(reference), TokenBytes.of(reference))


def _size(talks: list[Conversation]) -> int:
    return sum(len(turn.content.encode()) for talk in talks for turn in talk)


def encode_ours(given: argparse.Namespace) -> Result:
    """Megabytes of content per processor second."""
    encoder, talks = _encoder(given.run), list(conversations(given.run, given.conversations))
    encoder.encode(talks[:1000], [""] * 1000)  # compiled, and its cache filled, as after the first shard
    gc.freeze()  # a stage holds one batch at a time, not all conversations
    start = time.process_time()
    for first in range(0, len(talks), 1000):
        encoder.encode(talks[first : first + 1000], [""] * 1000)
    return {"megabytes": _size(talks) / 1e6 / (time.process_time() - start)}


def encode_transformers(given: argparse.Namespace) -> Result:
    """The same; and the share of conversations whose tokens and masks are ours."""
    from transformers import AutoTokenizer

    talks = list(conversations(given.run, max(_COMPARED, given.conversations // 10)))
    template = load_template(TEMPLATE)
    tokenizer = AutoTokenizer.from_pretrained(given.run / "tokenizer")
    tokenizer.chat_template = chat_template(
        template, control_names(template, TEMPLATE, ReferenceEncoder(given.run / "tokenizer"))
    )

    def encode(talk: Conversation) -> Any:
        messages = [{"role": turn.role, "content": turn.content} for turn in talk]
        return tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )

    encode(talks[0])
    gc.freeze()
    start = time.process_time()
    made = [encode(talk) for talk in talks]
    speed = _size(talks) / 1e6 / (time.process_time() - start)
    ours = _encoder(given.run).encode(talks[:_COMPARED], [""] * _COMPARED)
    ends = np.cumsum(ours.sizes)
    equal = sum(
        made[row]["input_ids"] == ours.tokens[end - size : end].tolist()
        and made[row]["assistant_masks"] == ours.mask[end - size : end].astype(int).tolist()
        for row, size, end in zip(ours.rows.tolist(), ours.sizes.tolist(), ends.tolist(), strict=True)
    )
    return {"megabytes": speed, "equal": equal / _COMPARED}


# --- packing ----------------------------------------------------------------------------------------------------------


def _lengths(count: int) -> Any:
    """Tokens of conversations, from short questions to whole contexts."""
    drawn = np.random.default_rng(1).lognormal(5.5, 1.0, count)
    return np.clip(drawn, 8, PACK).astype(np.int64)


def pack_ours(given: argparse.Namespace) -> Result:
    """Conversations per processor second, and the share of the packs that they fill."""
    sizes = _lengths(given.packed)
    pack_of_each(sizes[:1000], PACK)
    start = time.process_time()
    _, packs = pack_of_each(sizes, PACK)
    return {"conversations": len(sizes) / (time.process_time() - start), "filled": sizes.sum() / (packs * PACK)}


def pack_trl(given: argparse.Namespace) -> Result:
    """The same."""
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    sizes = _lengths(given.packed // 10)
    dataset = Dataset.from_dict({"input_ids": [[1] * size for size in sizes.tolist()]})
    start = time.process_time()
    packed = pack_dataset(dataset, PACK, "bfd", map_kwargs={"batch_size": len(dataset)})
    return {"conversations": len(sizes) / (time.process_time() - start), "filled": sizes.sum() / (len(packed) * PACK)}


# --- training ---------------------------------------------------------------------------------------------------------


def _model(given: argparse.Namespace) -> ModelConfig:
    heads = max(1, given.hidden // 64)
    return ModelConfig(
        vocabulary_size=given.vocabulary,
        hidden_size=given.hidden,
        layers=given.layers,
        attention_heads=heads,
        key_value_heads=heads,
        feed_forward_size=given.hidden * 8 // 3 // 16 * 16,
        maximum_positions=given.sequence,
    )


def _timed(step: Callable[[], float], given: argparse.Namespace) -> Result:
    """Tokens per processor second, peak memory, and the last loss."""
    for _ in range(2):
        step()
    start = time.process_time()
    for _ in range(given.steps):
        loss = step()
    seconds = time.process_time() - start
    tokens = given.steps * given.micro_batch * given.sequence
    return {"tokens": tokens / seconds, "memory": peak_bytes(), "loss": loss}


def _tokens(given: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    torch.set_num_threads(1)
    tokens = torch.randint(0, given.vocabulary, (given.micro_batch, given.sequence + 1))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def train_plain(given: argparse.Namespace) -> Result:
    """Our step on samples that are one text each."""
    tokens, targets = _tokens(given)
    step = make_ours(_model(given), "fp32", given.micro_batch)
    return _timed(lambda: step(tokens, targets), given)


def train_packed(given: argparse.Namespace) -> Result:
    """Our step on packs of eight conversations, of which half of the targets count."""
    tokens, targets = _tokens(given)
    opens = np.zeros(tokens.shape, np.bool_)
    opens[:, :: max(1, given.sequence // 8)] = True
    layout = torch.from_numpy(separate_documents(opens))
    weights = torch.zeros(targets.shape)
    weights[:, ::2] = 2.0
    engine = make_engine(_model(given), "fp32", given.micro_batch, objective={"separate_documents": True})
    return _timed(lambda: engine.train_step(iter([((tokens, layout), (targets, weights))]), LEARNING_RATE).loss, given)


def adapter_ours(given: argparse.Namespace) -> Result:
    """Our step with adapters on all linear layers."""
    tokens, targets = _tokens(given)
    adapter = {"rank": RANK, "alpha": 2 * RANK}
    step = make_ours(_model(given), "fp32", given.micro_batch, adapter=adapter, initial_weights="unused")
    return _timed(lambda: step(tokens, targets), given)


def adapter_peft(given: argparse.Namespace) -> Result:
    """PEFT's on transformers' LLaMA."""
    tokens, targets = _tokens(given)
    step = make_transformers(_model(given), "fp32", given.micro_batch, rank=RANK)
    return _timed(lambda: step(tokens, targets), given)


CONTENDERS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "ours, tokens and masks": encode_ours,
    "transformers, apply_chat_template": encode_transformers,
    "ours, packing": pack_ours,
    "TRL, pack_dataset": pack_trl,
    "ours, packs": train_packed,
    "ours, plain text": train_plain,
    "ours, adapters": adapter_ours,
    "PEFT and transformers": adapter_peft,
}

TABLES: list[tuple[str, str, str, dict[str, tuple[str, float]]]] = [
    (
        "conversations to tokens and masks",
        "ours, tokens and masks",
        "transformers, apply_chat_template",
        {"megabytes": ("MB / processor s", 1.0)},
    ),
    (
        f"packing into {PACK} tokens",
        "ours, packing",
        "TRL, pack_dataset",
        {"conversations": ("conversations / processor s", 1.0), "filled": ("% filled", 100.0)},
    ),
    (
        "training, fp32",
        "ours, packs",
        "ours, plain text",
        {"tokens": ("tokens / processor s", 1.0), "memory": ("memory, GB", 1e-9)},
    ),
    (
        f"adapters of rank {RANK} on all linear layers, fp32",
        "ours, adapters",
        "PEFT and transformers",
        {"tokens": ("tokens / processor s", 1.0), "memory": ("memory, GB", 1e-9)},
    ),
]
"""Title, contenders, and by key of a result: its heading and a factor; the first is the speed."""
