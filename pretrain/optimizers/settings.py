"""Settings of the optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from foundation.configuration import Settings

Kind = Literal["adamw", "muon", "adafactor"]


class OptimizerConfig(Settings):
    """Optimizer; defaults as in LLaMA (arXiv:2302.13971, section 2.3)."""

    kind: Kind = "adamw"
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101). Muon for the matrices of the blocks, and AdamW for
    embedding, head, norms and biases, see `pretrain/optimizers/muon.py`. Adafactor as PaLM used it, see
    `pretrain/optimizers/adafactor.py`; its learning rate is relative to the size of each weight, 0.01 in PaLM."""
    learning_rate: float = Field(gt=0)
    """Highest learning rate, reached at the end of the warm-up."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of gradients, or with Adafactor of steps; not of Muon's matrices."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the mean of squared gradients; not of Muon's matrices. Adafactor's is 1 - k^-0.8 at update k."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Number added to the root of the mean of squared gradients; not of Muon's matrices."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the sum of gradients of Muon's matrices (Jordan et al. 2024)."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Weight decay of matrices; norms and biases have none. Adafactor's is the square of the learning rate (PaLM,
    arXiv:2204.02311, section 5)."""
    gradient_clipping: float = Field(default=1.0, gt=0)
    """Largest global gradient norm."""

    def is_orthogonalised(self, name: str, shape: Sequence[int]) -> bool:
        """Whether a trained weight, by its global name, is one of Muon's matrices."""
        return self.kind == "muon" and name.startswith("layers.") and len(shape) > 1

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> OptimizerConfig:
        for name, kinds in (
            ("momentum", ("muon",)),
            ("beta2", ("adamw", "muon")),
            ("epsilon", ("adamw", "muon")),
            ("weight_decay", ("adamw", "muon")),
        ):
            value = getattr(self, name)
            if self.kind not in kinds and value != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name}: {value} has no effect with kind {self.kind}, only with {' and '.join(kinds)}"
                )
        return self
