"""What each family's block is made of: the settings of `ModelConfig` that `family` stands for, sizes aside.

A model file gives the family and the sizes; a setting that it gives itself goes before the one here.
"""

from __future__ import annotations

from typing import Any

BLOCKS: dict[str, dict[str, Any]] = {
    # Touvron et al. 2023, arXiv:2302.13971, section 2.2, and arXiv:2307.09288, section 2.2.
    "llama": {
        "positions": "rotary",
        "norm": "rms",
        "activation": "swiglu",
    },
    # Brown et al. 2020, arXiv:2005.14165, section 2.1, and GPT-2's released code, whose GELU is the tanh form. GPT-3's
    # alternating banded attention is not done: each layer sees everything before it, as in GPT-2.
    "gpt3": {
        "positions": "learned",
        "norm": "layer",
        "activation": "gelu_tanh",
        "biases": True,
        "tied_embedding": True,
    },
    # Chowdhery et al. 2022, arXiv:2204.02311, sections 2 and 5.
    "palm": {
        "positions": "rotary_interleaved",
        "norm": "layer_without_bias",
        "block": "parallel",
        "activation": "swiglu",
        "tied_embedding": True,
        "initialisation": "fan_in",
        "z_loss": 1e-4,
    },
    # Le Scao et al. 2022, arXiv:2211.05100, section 3.2.
    "bloom": {
        "positions": "alibi",
        "norm": "layer",
        "embedding_norm": True,
        "activation": "gelu_tanh",
        "biases": True,
        "tied_embedding": True,
    },
    # Yang et al. 2023, arXiv:2309.10305, section 2; the 13B models have ALiBi instead of rotary positions, Baichuan 2
    # has NormHead and max-z loss.
    "baichuan": {
        "positions": "rotary",
        "norm": "rms",
        "norm_epsilon": 1e-6,
        "activation": "swiglu",
    },
    # Du et al. 2021, arXiv:2103.10360, section 2.3. GLM-130B has rotary positions, DeepNorm and GeGLU instead
    # (Zeng et al. 2022, arXiv:2210.02414, section 2.1).
    "glm": {
        "positions": "learned_2d",
        "norm": "layer",
        "activation": "gelu_tanh",
        "biases": True,
        "tied_embedding": True,
    },
}
