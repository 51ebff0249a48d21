"""Plain single-device models written from the papers: one sequence of whole tensors at a time, no other code of ours.

S sequence, D hidden size, H heads, E head size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from pretrain.config import ModelConfig

Weights = dict[str, torch.Tensor]


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias_HSS: torch.Tensor | None, visible_SS: torch.Tensor
) -> torch.Tensor:
    """Attention over [S, H, E]."""
    scores = torch.einsum("she,the->hst", q, k) / math.sqrt(q.shape[-1])
    if bias_HSS is not None:
        scores = scores + bias_HSS
    weights = scores.masked_fill(~visible_SS, float("-inf")).softmax(-1)
    return torch.einsum("hst,the->she", weights, v).flatten(1)


def turn(x_SHE: torch.Tensor, positions_S: torch.Tensor) -> torch.Tensor:
    """RoPE as complex numbers made of the two halves (Su et al. 2021, equation 12)."""
    size = x_SHE.shape[-1]
    frequencies = 10000.0 ** (-2 * torch.arange(size // 2, dtype=torch.float64) / size)
    angles = positions_S.double()[:, None] * frequencies
    turned = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)[:, None]
    pairs = torch.complex(x_SHE[..., : size // 2], x_SHE[..., size // 2 :]) * turned
    return torch.cat([pairs.real, pairs.imag], -1)


def baichuan_slopes(heads: int) -> list[float]:
    """As in Baichuan 13B's released code: recursive."""
    if math.log2(heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [start * start**i for i in range(heads)]
    closest = 2 ** math.floor(math.log2(heads))
    return baichuan_slopes(closest) + baichuan_slopes(2 * closest)[0::2][: heads - closest]


def baichuan(w: Weights, config: ModelConfig, tokens_BS: torch.Tensor) -> torch.Tensor:
    """Baichuan 1 and 2 (arXiv:2309.10305, sections 2.2 and 2.3)."""
    return torch.stack([_baichuan(w, config, tokens) for tokens in tokens_BS])


def _baichuan(w: Weights, config: ModelConfig, tokens_S: torch.Tensor) -> torch.Tensor:
    length, heads = len(tokens_S), config.attention_heads
    places = torch.arange(length)
    visible = places[:, None] >= places
    bias = None
    if config.positions == "alibi":
        bias = torch.tensor(baichuan_slopes(heads))[:, None, None] * (places - places[:, None])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + config.norm_epsilon).sqrt() * w[f"{name}.weight"]

    x = w["embedding.weight"][tokens_S]
    for i in range(config.layers):
        layer = f"layers.{i}"
        packed = norm(x, f"{layer}.attention_norm") @ w[f"{layer}.attention.query_key_value.weight"].T
        q, k, v = packed.view(length, 3, heads, -1).unbind(1)
        if bias is None:
            q, k = turn(q, places), turn(k, places)
        x = x + attend(q, k, v, bias, visible) @ w[f"{layer}.attention.output.weight"].T
        gate, up = (norm(x, f"{layer}.mlp_norm") @ w[f"{layer}.mlp.gate_up.weight"].T).chunk(2, -1)
        x = x + (F.silu(gate) * up) @ w[f"{layer}.mlp.down.weight"].T
    head = w["head.weight"]
    if config.normalised_head:
        head = head / head.pow(2).sum(-1, keepdim=True).sqrt()
    return (norm(x, "final_norm") @ head.T)[:, : config.vocabulary_size]


def glm(
    w: Weights,
    config: ModelConfig,
    tokens_BS: torch.Tensor,
    positions_BS2: torch.Tensor | None = None,
    prefix_B: list[int] | None = None,
) -> torch.Tensor:
    """GLM (arXiv:2103.10360, section 2) and GLM-130B (arXiv:2210.02414, section 2.1).

    Args:
        positions_BS2: place in the text, place in the blank.
        prefix_B: so many first tokens see each other in both directions.
    """
    logits = []
    for row, tokens in enumerate(tokens_BS):
        length = len(tokens)
        positions = torch.stack([torch.arange(length), torch.zeros(length, dtype=torch.int64)], -1)
        prefix = prefix_B[row] if prefix_B else 0
        logits.append(_glm(w, config, tokens, positions if positions_BS2 is None else positions_BS2[row], prefix))
    return torch.stack(logits)


def _glm(
    w: Weights, config: ModelConfig, tokens_S: torch.Tensor, positions_S2: torch.Tensor, prefix: int
) -> torch.Tensor:
    length, heads, hidden = len(tokens_S), config.attention_heads, config.hidden_size
    places = torch.arange(length)
    visible = (places[:, None] >= places) | (places < prefix)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + config.norm_epsilon).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def attention(x: torch.Tensor, layer: str) -> torch.Tensor:
        q, k, v = linear(x, f"{layer}.attention.query_key_value").view(length, 3, heads, -1).unbind(1)
        if config.is_rotary:
            q, k = turn(q, positions_S2[:, 0]), turn(k, positions_S2[:, 0])
        return linear(attend(q, k, v, None, visible), f"{layer}.attention.output")

    def mlp(x: torch.Tensor, layer: str) -> torch.Tensor:
        if config.activation == "geglu":
            gate, up = linear(x, f"{layer}.mlp.gate_up").chunk(2, -1)
            inner = 0.5 * gate * (1 + torch.erf(gate / math.sqrt(2))) * up
        elif config.activation == "gelu":
            up = linear(x, f"{layer}.mlp.up")
            inner = 0.5 * up * (1 + torch.erf(up / math.sqrt(2)))
        else:
            up = linear(x, f"{layer}.mlp.up")
            inner = 0.5 * up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
        return linear(inner, f"{layer}.mlp.down")

    x = w["embedding.weight"][tokens_S]
    if not config.is_rotary:
        x = x + w["positions.weight"][positions_S2[:, 0]] + w["block_positions.weight"][positions_S2[:, 1]]
    for i in range(config.layers):
        layer = f"layers.{i}"
        if config.block == "deepnorm":
            alpha = math.sqrt(2 * config.layers)
            x = norm(x, f"{layer}.attention_norm")  # of the embedding, or what follows the MLP before
            x = norm(alpha * x + attention(x, layer), f"{layer}.mlp_norm")
            x = alpha * x + mlp(x, layer)  # its norm is the next layer's, or the last one
        else:
            x = x + attention(norm(x, f"{layer}.attention_norm"), layer)
            x = x + mlp(norm(x, f"{layer}.mlp_norm"), layer)
    assert x.shape == (length, hidden)
    return (norm(x, "final_norm") @ w["embedding.weight"].T)[:, : config.vocabulary_size]
