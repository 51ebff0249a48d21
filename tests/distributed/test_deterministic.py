"""`deterministic: true` changes no bit on a CPU."""

from __future__ import annotations

import pytest

from pretrain.topology import Topology
from tests.distributed import cases
from tests.distributed.differences import worst_difference
from tests.distributed.processes import run_processes
from tests.distributed.test_families import config_of

STEPS = 2


@pytest.mark.parametrize("name", ["llama", "bloom-prefix", "glm-blanks", "baichuan-alibi"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_cpu_nothing_changes(name: str, precision: str) -> None:
    """With dropout of both kinds, label smoothing and a tensor axis."""
    shares = {f"model__{key}": 0.1 for key in ("hidden_dropout", "attention_dropout", "label_smoothing")}
    settings = {**shares, "precision": precision, "parallel__tensor": 2}
    topology = Topology(1, 1, 2)
    (plain, *_) = run_processes(2, cases.train, config_of(name, **settings), topology, STEPS)
    fixed = config_of(name, **settings, deterministic=True)
    (ours, *_) = run_processes(2, cases.train_in_fixed_order, fixed, topology, STEPS)
    for key in ("loss", "gradient_norm", "largest_logit", "evaluation"):
        assert ours[key] == plain[key]
    for key in ("gradients", "weights"):
        assert worst_difference(ours[key], plain[key])[0] == 0.0
