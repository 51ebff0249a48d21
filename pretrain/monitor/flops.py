"""Arithmetic that a model needs, to hold a speed against what the hardware could do."""

from __future__ import annotations

from pretrain.config import ModelConfig
from pretrain.families.mapping import parameter_count


def model_flops_per_token(model: ModelConfig, sequence_length: int) -> int:
    """Floating-point operations of forward and backward pass for one token of training.

    6 N + 12 L H Q T, with N the weights that multiply, L layers, H attention heads of size Q, T the sequence length.
    The embedding is left out of N, because a look-up multiplies nothing; tied to the head, as in PaLM, it counts as
    such. Learned positions are left out. Recomputed activations are not counted, and attention counts in full although
    half of it is masked, so that the share of peak speed (MFU) compares with published ones.

    Source: Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B.
    """
    tables = {"learned": 1, "learned_2d": 2}.get(model.positions, 0) * model.maximum_positions
    looked_up = tables + (0 if model.tied_embedding else model.vocabulary_size)
    multiplying = parameter_count(model) - looked_up * model.hidden_size
    attention = 12 * model.layers * model.attention_heads * model.head_size * sequence_length
    return 6 * multiplying + attention
