"""The tiny twin of a run's model: everything that decides how it is computed, at a size that takes no time."""

from __future__ import annotations

from typing import Any

from pretrain.config import BLANK_TOKENS, VOCABULARY_MULTIPLE, ModelConfig, TrainConfig
from pretrain.topology import Topology
from pretrain.tuning import AdapterConfig

HIDDEN = 128
FEED_FORWARD_OF_A_RANK = 64
LENGTH = 128
MICRO_BATCH, ACCUMULATION = 2, 3
ADAPTER_RANK = 8
VOCABULARY_MULTIPLES = 2
"""Multiples of `VOCABULARY_MULTIPLE` rows that each tensor rank has of the twin's embedding, at most."""

OPTIMIZER = {"learning_rate": 1e-2, "gradient_clipping": 0.1}
"""The threshold is one that the twin's gradient exceeds."""


def twin_config(config: TrainConfig, topology: Topology) -> TrainConfig:
    """Settings of the twin under the same topology.

    Family, block, objective, precision, layout of the mesh, recomputation, adapters, compilation and kernels are the
    run's; its update is AdamW's whatever the run's optimizer, because rounding changes the others' too much in bf16.
    Sizes are small and divisible by the degrees; the head size stays, because it chooses the kernels. What is trained
    of the run's layers is trained of the twin's, each kind of layer at least once.
    """
    kinds = _kinds_of_layers(config)
    layers = min(config.model.layers, max(2 * topology.pipe, 2, len(kinds), config.model.full_attention_every or 1))
    multiple = topology.tensor * (2 * topology.context if topology.context > 1 else 1)
    length = min(config.data.sequence_length, max(LENGTH // multiple, 1) * multiple)
    micro = min(config.batch.micro_batch_size, MICRO_BATCH)
    accumulation = min(config.accumulation_steps(topology.data), ACCUMULATION)
    settings = config.model_dump(mode="json")
    settings.update(
        model=_small_model(config.model, layers, length, topology.tensor),
        data={"mixture": config.data.mixture, "sequence_length": length},
        batch={"global_batch_size": micro * topology.data * accumulation, "micro_batch_size": micro},
        schedule={"total_steps": 10, "warmup_steps": 1},
        spikes={"enabled": False},
        evaluation={},
        stop_after_step=None,
        adapter=None if config.adapter is None else _small_adapter(config.adapter),
    )
    settings["optimizer"] = {"weight_decay": config.optimizer.weight_decay, **OPTIMIZER}
    settings["objective"].update(_small_tokens(config))
    if config.trainable is not None:
        settings["trainable"] = _trained_names(config, kinds, layers)
    trained = TrainConfig.model_validate(settings).trained_count
    # An epsilon of the size of a clipped gradient's elements: with the usual one, AdamW's first update is next to the
    # gradient's sign alone, which hides a wrong scale and magnifies rounding.
    settings["optimizer"]["epsilon"] = OPTIMIZER["gradient_clipping"] * trained**-0.5
    return TrainConfig.model_validate(settings)


def _small_model(model: ModelConfig, layers: int, length: int, tensor: int) -> dict[str, Any]:
    shared = model.key_value_heads < tensor
    key_value_heads = model.key_value_heads if shared else tensor * min(model.key_value_heads // tensor, 2)
    heads = tensor if shared else key_value_heads
    heads *= min(model.attention_heads // heads, 2)
    rows = VOCABULARY_MULTIPLE * tensor * VOCABULARY_MULTIPLES
    padded = model.vocabulary_size != model.padded_vocabulary_size(tensor)
    window, base = model.sliding_window, model.base_hidden_size
    hidden = min(model.hidden_size, HIDDEN)
    return {
        **model.model_dump(mode="json"),
        "hidden_size": hidden,
        "base_hidden_size": None if base is None else max(base * hidden // model.hidden_size, 1),
        "layers": layers,
        "attention_heads": heads,
        "key_value_heads": key_value_heads,
        "attention_head_size": model.head_size,
        "feed_forward_size": min(model.feed_forward_size, FEED_FORWARD_OF_A_RANK * tensor),
        "vocabulary_size": min(model.vocabulary_size, rows - 5 if padded else rows),
        "maximum_positions": min(model.maximum_positions, length),
        "sliding_window": None if window is None else min(window, max(length // 3, 1)),
        "full_attention_first": min(model.full_attention_first, layers - 1),
    }


def _small_adapter(adapter: AdapterConfig) -> dict[str, Any]:
    """An adapter of a lower rank with the same scale."""
    rank = min(adapter.rank, ADAPTER_RANK)
    alpha = adapter.scale * (rank**0.5 if adapter.rank_stabilised else rank)
    return {**adapter.model_dump(), "rank": rank, "alpha": alpha}


def _small_tokens(config: TrainConfig) -> dict[str, int]:
    """The first entries of the vocabulary in place of the tokens that the objective needs."""
    given = [name for name in BLANK_TOKENS if getattr(config.objective, name) is not None]
    return {name: token for token, name in enumerate(given)}


def _kinds_of_layers(config: TrainConfig) -> list[frozenset[str]]:
    """Sets of weights that are trained of one layer, each set once, in the order of the layers."""
    inner: list[set[str]] = [set() for _ in range(config.model.layers)]
    for name in config.trained_shapes:
        if name.startswith("layers."):
            _, layer, weight = name.split(".", 2)
            inner[int(layer)].add(weight)
    return list(dict.fromkeys(frozenset(names) for names in inner))


def _trained_names(config: TrainConfig, kinds: list[frozenset[str]], layers: int) -> tuple[str, ...]:
    """Names of the twin's weights that are trained beside adapters."""
    names = [name for name in config.trained_shapes if not name.startswith("layers.")]
    for layer in range(layers):
        kind = kinds[layer * len(kinds) // layers]
        names += [f"layers.{layer}.{weight}" for weight in sorted(kind) if ".lora." not in weight]
    return tuple(names)
