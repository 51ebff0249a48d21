"""A setting that an optimizer does not read is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pretrain.config import TrainConfig
from tests.distributed.cases import tiny_config

MUON, ADAFACTOR = ({"kind": kind, "learning_rate": 1e-2} for kind in ("muon", "adafactor"))
MATRICES = {"trainable": ["layers.*.mlp.down.weight"], "initial_weights": "imported"}


def settings(optimizer: dict[str, Any], **changes: Any) -> TrainConfig:
    return tiny_config(optimizer=optimizer, **changes)


@pytest.mark.parametrize(
    ("optimizer", "changes", "message"),
    [
        ({"learning_rate": 1e-3, "momentum": 0.9}, {}, "momentum: 0.9 has no effect with kind adamw, only with muon"),
        (ADAFACTOR | {"beta2": 0.99}, {}, "beta2: 0.99 has no effect with kind adafactor, only with adamw and muon"),
        (
            ADAFACTOR | {"epsilon": 1e-6},
            {},
            "epsilon: 1e-06 has no effect with kind adafactor, only with adamw and muon",
        ),
        (ADAFACTOR | {"weight_decay": 0.0}, {}, "weight_decay: 0.0 has no effect with kind adafactor"),
        (ADAFACTOR | {"momentum": 0.9}, {}, "momentum: 0.9 has no effect with kind adafactor, only with muon"),
        (
            ADAFACTOR,
            {"model__embedding_learning_rate_ratio": 8.0},
            "embedding_learning_rate_ratio: 8.0 would count twice",
        ),
        (MUON, {"model__base_hidden_size": 16}, "base_hidden_size: its rule for learning rates is for AdamW"),
        (
            MUON,
            {"adapter": {"rank": 2, "alpha": 4}, "initial_weights": "imported"},
            "optimizer.kind: muon has no rule for adapters",
        ),
        (MUON, MATRICES | {"trainable": ["head"]}, "optimizer.kind: muon has no effect: trainable has no matrix"),
        (MUON | {"beta1": 0.8}, MATRICES, "optimizer.beta1: 0.8 has no effect: all trained weights are matrices"),
        (MUON | {"beta2": 0.9}, MATRICES, "optimizer.beta2: 0.9 has no effect: all trained weights are matrices"),
        (MUON | {"kind": "lion"}, {}, "optimizer.kind"),
    ],
)
def test_what_has_no_effect_is_refused(optimizer: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        settings(optimizer, **changes)
    assert message in str(error.value)


def test_muon_is_for_the_matrices_of_the_blocks() -> None:
    config = settings(MUON | {"beta2": 0.9, "epsilon": 1e-6, "momentum": 0.9})
    chosen = [name for name, shape in config.trained_shapes.items() if config.optimizer.is_orthogonalised(name, shape)]
    assert len(chosen) == 4 * 4 and all(name.startswith("layers.") and "norm" not in name for name in chosen)
    assert settings(MUON, **MATRICES).optimizer.kind == "muon"
    plain = settings({"learning_rate": 1e-3})
    assert not any(plain.optimizer.is_orthogonalised(name, shape) for name, shape in plain.trained_shapes.items())
