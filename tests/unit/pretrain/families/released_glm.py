"""What the programs of GLM's authors compute with the tensors of their files, each rank with its own; no code of ours.

Written from the papers (arXiv:2103.10360, section 2; arXiv:2210.02414, section 2.1) and from reading the released
modelling code: the order of rows, the MLP's halves, which GELU it is.

S sequence, D hidden size, H heads of a rank, E head size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Program:
    """A program of the authors, by what differs between them.

    Attributes:
        embedding, stack, blocks: prefixes of the embedding, of the layers, and of the second table of positions.
        gelu: "tanh" or "none", as torch calls the approximation of the MLP's activation.
        is_130b: heads one after the other, rotary positions, DeepNorm, and a gated MLP.
    """

    embedding: str = ""
    stack: str = "transformer."
    blocks: str = "transformer."
    gelu: str = "tanh"
    is_130b: bool = False


HUGGING_FACE = Program("glm.", "glm.transformer.", "glm.transformer.", gelu="none")
THUDM_GLM = Program()
SAT = Program("transformer.", "transformer.", "mixins.block_position_embedding.")
SAT_130B = Program("transformer.", "transformer.", gelu="none", is_130b=True)


def random_parts(
    program: Program,
    parts: int,
    *,
    layers: int,
    hidden: int,
    inner: int,
    vocabulary: int,
    positions: int,
    seed: int = 0,
) -> list[dict[str, torch.Tensor]]:
    """A random model in the files of so many ranks: names and shapes of the released ones."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, around: float = 0.0, std: float = 0.15) -> torch.Tensor:
        return around + std * torch.randn(shape, generator=generator)

    files: list[dict[str, torch.Tensor]] = [{} for _ in range(parts)]

    def add(name: str, *shape: int, is_copy: bool = False, around: float = 0.0) -> None:
        copy = random(*shape, around=around)
        for file in files:
            file[name] = copy.clone() if is_copy else random(*shape)

    def norm(name: str) -> None:
        add(f"{name}.weight", hidden, is_copy=True, around=1.0)
        add(f"{name}.bias", hidden, is_copy=True)

    add(f"{program.embedding}word_embeddings.weight", vocabulary // parts, hidden)
    if not program.is_130b:
        add(f"{program.stack}position_embeddings.weight", positions, hidden, is_copy=True)
        add(f"{program.blocks}block_position_embeddings.weight", positions, hidden, is_copy=True)
    for index in range(layers):
        layer = f"{program.stack}layers.{index}"
        norm(f"{layer}.input_layernorm")
        add(f"{layer}.attention.query_key_value.weight", 3 * hidden // parts, hidden)
        add(f"{layer}.attention.query_key_value.bias", 3 * hidden // parts)
        add(f"{layer}.attention.dense.weight", hidden, hidden // parts)
        add(f"{layer}.attention.dense.bias", hidden, is_copy=True)
        norm(f"{layer}.post_attention_layernorm")
        rows = (2 if program.is_130b else 1) * inner // parts
        add(f"{layer}.mlp.dense_h_to_4h.weight", rows, hidden)
        add(f"{layer}.mlp.dense_h_to_4h.bias", rows)
        add(f"{layer}.mlp.dense_4h_to_h.weight", hidden, inner // parts)
        add(f"{layer}.mlp.dense_4h_to_h.bias", hidden, is_copy=True)
    norm(f"{program.stack}final_layernorm")
    return files


def logits(
    program: Program,
    parts: Sequence[Tensors],
    heads: int,
    layers: int,
    tokens_S: torch.Tensor,
    positions_S2: torch.Tensor,
    prefix: int = 0,
) -> torch.Tensor:
    """Logits [S, V] of one sequence.

    Args:
        heads: of the whole model.
        positions_S2: place in the text, place in the blank.
        prefix: so many first tokens see each other in both directions.
    """
    length = len(tokens_S)
    places = torch.arange(length)
    unseen_SS = (places > places[:, None]) & (places >= prefix)
    rows = [part[f"{program.embedding}word_embeddings.weight"] for part in parts]
    share = len(rows[0])
    x = torch.stack([rows[token // share][token % share] for token in tokens_S.tolist()])
    first = parts[0]
    if not program.is_130b:
        x = x + first[f"{program.stack}position_embeddings.weight"][positions_S2[:, 0]]
        x = x + first[f"{program.blocks}block_position_embeddings.weight"][positions_S2[:, 1]]
    for index in range(layers):
        layer = f"{program.stack}layers.{index}"
        normed = _norm(first, f"{layer}.input_layernorm", x)
        attended = _attention(program, parts, f"{layer}.attention", heads, normed, positions_S2[:, 0], unseen_SS)
        alpha = math.sqrt(2 * layers) if program.is_130b else 1.0
        x = alpha * (normed if program.is_130b else x) + attended
        normed = _norm(first, f"{layer}.post_attention_layernorm", x)
        x = alpha * (normed if program.is_130b else x) + _mlp(program, parts, f"{layer}.mlp", normed)
    x = _norm(first, f"{program.stack}final_layernorm", x)
    return torch.cat([x @ own.T for own in rows], -1)


def _norm(tensors: Tensors, name: str, x_SD: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x_SD, x_SD.shape[1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-5)


def _linear(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def _attention(
    program: Program,
    parts: Sequence[Tensors],
    name: str,
    heads: int,
    x_SD: torch.Tensor,
    positions_S: torch.Tensor,
    unseen_SS: torch.Tensor,
) -> torch.Tensor:
    total = parts[0][f"{name}.dense.bias"]
    own, size = heads // len(parts), x_SD.shape[1] // heads
    for part in parts:
        mixed = _linear(part, f"{name}.query_key_value", x_SD)
        if program.is_130b:  # query, key and value of a head are neighbours
            q, k, v = mixed.view(-1, own, 3 * size).split(size, -1)
            q, k = _rotated(q, positions_S), _rotated(k, positions_S)
        else:  # all queries of the rank, all its keys, all its values
            q, k, v = (third.view(-1, own, size) for third in mixed.chunk(3, -1))
        scores = torch.einsum("she,the->hst", q, k) / math.sqrt(size)
        weights = scores.masked_fill(unseen_SS, float("-inf")).softmax(-1)
        context = torch.einsum("hst,the->she", weights, v).flatten(1)
        total = total + context @ part[f"{name}.dense.weight"].T
    return total


def _rotated(x_SHE: torch.Tensor, positions_S: torch.Tensor) -> torch.Tensor:
    """x cos + rotate_half(x) sin, as in GPT-NeoX."""
    size = x_SHE.shape[-1]
    angles = positions_S[:, None] * 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    cos, sin = (table.float().repeat(1, 2)[:, None] for table in (angles.cos(), angles.sin()))
    first, second = x_SHE.chunk(2, -1)
    return x_SHE * cos + torch.cat([-second, first], -1) * sin


def _mlp(program: Program, parts: Sequence[Tensors], name: str, x_SD: torch.Tensor) -> torch.Tensor:
    total = parts[0][f"{name}.dense_4h_to_h.bias"]
    for part in parts:
        inner = _linear(part, f"{name}.dense_h_to_4h", x_SD)
        if program.is_130b:
            factor, gated = inner.chunk(2, -1)
            inner = factor * F.gelu(gated)
        else:
            inner = F.gelu(inner, approximate=program.gelu)
        total = total + inner @ part[f"{name}.dense_4h_to_h.weight"].T
    return total
