"""Learning rates and initial weights that follow the width (μP)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pretrain.config import ModelConfig
from pretrain.device import group_alone
from pretrain.model.init import whole_weight
from pretrain.model.linear import TensorParallel
from pretrain.model.pipeline import WholeModel

BASE = 32


def model(width: int, **changes: Any) -> ModelConfig:
    """Heads of 8, and an MLP of twice the width."""
    heads = {"attention_heads": width // 8, "key_value_heads": width // 8, "feed_forward_size": 2 * width}
    sizes = {"vocabulary_size": 256, "hidden_size": width, "layers": 2, "maximum_positions": 32, **heads}
    return ModelConfig.model_validate({**sizes, "base_hidden_size": BASE, **changes})


def test_at_the_base_width_nothing_changes() -> None:
    one, plain = model(BASE), model(BASE, base_hidden_size=None)
    for name in ("embedding.weight", "layers.0.mlp.up.weight", "head.weight"):
        assert torch.equal(whole_weight(name, (64, 32), 1, one), whole_weight(name, (64, 32), 1, plain))
        assert one.learning_rate_ratio(name, is_matrix=True) == plain.learning_rate_ratio(name, is_matrix=True) == 1


@pytest.mark.parametrize(
    ("name", "is_matrix", "deviation", "rate"),
    [
        ("embedding.weight", True, 1, 1),
        ("layers.1.attention.query_key_value.weight", True, 1 / 2, 1 / 4),
        ("layers.1.attention.output.weight", True, 1 / 2 / 2, 1 / 4),  # and 1 / sqrt(2 · layers)
        ("layers.1.mlp.gate_up.weight", True, 1 / 2, 1 / 4),
        ("layers.1.mlp_norm.weight", False, None, 1),
        ("final_norm.weight", False, None, 1),
        ("head.weight", True, 1 / 4, 1 / 4),
    ],
)
def test_four_times_the_width(name: str, is_matrix: bool, deviation: float | None, rate: float) -> None:
    """Yang et al. 2022, arXiv:2203.03466, table 3: Adam, input, hidden and output weights."""
    wide = model(4 * BASE)
    assert wide.learning_rate_ratio(name, is_matrix=is_matrix) == rate
    if deviation is not None:
        std = float(whole_weight(name, (500, 400), 1, wide).std())
        assert std == pytest.approx(deviation * wide.initial_std, rel=0.02)


def change_of_logits(width: int, steps: int = 8, **changes: Any) -> float:
    """How far the logits have moved after some steps of AdamW, root of the mean square."""
    config = model(width, **changes)
    whole = WholeModel(config, TensorParallel(group_alone(), torch.float32))
    groups = []
    for name, parameter in whole.named_global_parameters():
        with torch.no_grad():
            parameter.copy_(whole_weight(name, tuple(parameter.shape), 3, config))
        ratio = config.learning_rate_ratio(name, is_matrix=parameter.ndim > 1)
        groups.append({"params": [parameter], "lr": 3e-3 * ratio})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    tokens = torch.randint(0, 256, (4, 33), generator=torch.Generator().manual_seed(2))
    first: torch.Tensor | None = None
    for _ in range(steps + 1):
        logits = whole(tokens[:, :-1])
        first = logits.detach() if first is None else first
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].T.flatten())
        optimizer.zero_grad()
        loss.backward()
        last = logits.detach()
        optimizer.step()
    return float((last - first).square().mean().sqrt())


def test_what_a_step_changes_does_not_depend_on_the_width() -> None:
    """The coordinate check (Yang et al. 2022, appendix D.1): with one rate for all widths, the change grows."""
    widths = (32, 128, 512)
    ours = [change_of_logits(width) for width in widths]
    plain = [change_of_logits(width, base_hidden_size=None) for width in widths]
    assert ours[0] == pytest.approx(plain[0])
    assert max(ours) < 1.5 * min(ours)
    assert plain[2] > 5 * plain[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tied_embedding": True}, "base_hidden_size: needs tied_embedding=false"),
        ({"initialisation": "fan_in"}, "base_hidden_size: 32 has no effect: initialisation fan_in"),
    ],
)
def test_models_that_it_says_nothing_about(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        model(64, **changes)
