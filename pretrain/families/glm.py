"""GLM. No model of transformers computes it, so it has no mapping to Hugging Face's format."""

from __future__ import annotations

from typing import Any

BLOCK: dict[str, Any] = {
    "positions": "learned_2d",
    "norm": "layer",
    "activation": "gelu_tanh",
    "biases": True,
    "tied_embedding": True,
}
"""Du et al. 2021, arXiv:2103.10360, section 2.3. GLM-130B has rotary positions, DeepNorm and GeGLU instead (Zeng et al.
2022, arXiv:2210.02414, section 2.1)."""
