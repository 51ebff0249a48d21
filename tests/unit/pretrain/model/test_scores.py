"""Log-likelihoods of given tokens are those of a softmax over the real vocabulary."""

from __future__ import annotations

import pytest
import torch

from pretrain.device import group_alone
from pretrain.model import head_loss
from pretrain.model.scores import row_scores

VOCABULARY, PADDED = 50, 64


@pytest.mark.parametrize("soft_cap", [None, 3.0])
@pytest.mark.parametrize("logits_bytes", [1 << 20, 4 * PADDED * 3], ids=["at once", "in parts"])
def test_scores_are_those_of_the_whole_softmax(
    logits_bytes: int, soft_cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(head_loss.LOGITS_BYTES, "cpu", logits_bytes)
    torch.manual_seed(1)
    x, weight = torch.randn(7, 3, 8), torch.randn(PADDED, 8)
    weight[VOCABULARY:] *= 100  # rows that must take no probability
    targets, is_scored = torch.randint(VOCABULARY, (7, 3)), torch.rand(7, 3) < 0.5
    is_scored[:, 2] = False
    logits = x @ weight[:VOCABULARY].T
    log_probabilities = (logits if soft_cap is None else soft_cap * (logits / soft_cap).tanh()).log_softmax(-1)
    targets[:4, 0], is_scored[:, 0] = log_probabilities[:4, 0].argmax(-1), torch.arange(7) < 4
    found = row_scores(x, weight, targets, is_scored, group_alone(), VOCABULARY, soft_cap)
    chosen = log_probabilities.gather(2, targets[:, :, None])[:, :, 0].double()
    unlikely = log_probabilities.argmax(-1) != targets
    torch.testing.assert_close(found[0], (chosen * is_scored).sum(0), rtol=1e-6, atol=1e-6)
    assert torch.equal(found[1], (unlikely & is_scored).sum(0).double())
    assert found[1, 0] == 0 and found[:, 2].tolist() == [0, 0]


def test_the_first_of_equally_likely_tokens_is_the_likeliest() -> None:
    weight = torch.zeros(4, 2)
    weight[1, 0] = weight[3, 0] = 1.0
    x, is_scored = torch.ones(1, 2, 2), torch.ones(1, 2, dtype=torch.bool)
    found = row_scores(x, weight, torch.tensor([[1, 3]]), is_scored, group_alone(), 4, None)
    assert found[1].tolist() == [0, 1]
