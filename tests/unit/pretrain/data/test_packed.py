"""Training on a pack equals training on its conversations alone: logits, loss and gradients, every family and
objective."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foundation.configuration import ConfigError
from pretrain.config import ObjectiveConfig
from pretrain.data.batch_sizes import BatchSizes
from pretrain.data.batches import Batches
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import load_mixture
from pretrain.data.objective import Objective, answer_layout, separate_documents
from pretrain.data.run_data import open_data
from pretrain.data.skips import SkippedRanges
from pretrain.model.layout import BLOCK_POSITION, COLUMNS, POSITION, SEEN_END
from pretrain.topology import Topology
from tests.distributed.cases import tiny_config
from tests.masked_tokens import END, Documents, chats, write_masked
from tests.unit.pretrain.families.small import SMALL, build, small_model

LENGTH = 100
MASK, LONG_MASK, START = 5, 6, 7
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def objective_of(kind: str, weighting: str = "token") -> ObjectiveConfig:
    blanks = {"mask_token": MASK, "long_mask_token": LONG_MASK, "start_token": START, "end_token": END}
    settings: dict[str, Any] = {"kind": kind, "weighting": weighting}
    if kind == "causal":
        settings["separate_documents"] = True
    return ObjectiveConfig.model_validate(settings | (blanks if kind == "blank_infilling" else {}))


def talks(kind: str, count: int = 9) -> Documents:
    return chats(3, count, 60, head=(LONG_MASK, START) if kind == "blank_infilling" else ())


def alone_layout(kind: str, learnt: list[bool], *, two_dimensional: bool) -> torch.Tensor | None:
    """Layout of one conversation, from the definitions: its question is seen whole, its answer from left to right."""
    if kind == "causal":
        return None
    first, length = learnt.index(True), len(learnt) - 1
    layout = np.zeros((1, length, COLUMNS), np.int64)
    known = first if kind == "prefix" else first - 1
    for place in range(length):
        layout[0, place, SEEN_END] = known if place < known else place + 1
        layout[0, place, POSITION] = place
        if kind == "blank_infilling" and two_dimensional and place >= known:
            layout[0, place, [POSITION, BLOCK_POSITION]] = known - 1, place - known + 1
    return torch.from_numpy(layout)


def nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")


CASES = [
    # LongRoPE's factors depend on the length of the sample; the configuration refuses it.
    *((name, "causal") for name in SMALL if name != "llama-longrope"),
    *((name, kind) for name in ("llama", "bloom", "glm", "glm-deepnorm") for kind in ("prefix", "blank_infilling")),
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_pack_is_trained_on_as_its_conversations_alone(tmp_path: Path, name: str, kind: str) -> None:
    config = small_model(name).model_copy(update={"vocabulary_size": 300})
    two_dimensional = config.positions == "learned_2d"
    documents = talks(kind)
    reader = SampleReader(load_mixture(write_masked(tmp_path, pack=LENGTH, talks=documents)), LENGTH, 1)
    packs = reader.datasets[0].packs
    assert packs > 1
    objective = Objective(objective_of(kind), two_dimensional=two_dimensional)
    (tokens, layout), (targets, weights) = next(
        Batches(reader, packs, objective=objective).training(0, BatchSizes(packs))
    )

    together, apart = build(config), build(config)
    logits = together(tokens, layout).transpose(0, 1)[..., : config.vocabulary_size]
    loss = (nll(logits, targets) * weights).sum()
    loss.backward()
    scale = packs / sum(sum(learnt) for _, learnt in documents)
    total, found = 0.0, 0
    for sample in range(packs):
        for part in reader.describe(sample).parts:
            conversation = reader.datasets[0].document(part.document).astype(np.int64)
            learnt = reader.datasets[0].loss_mask(*reader.datasets[0].document_range(part.document))
            if part.stop - part.start < 2 or not learnt.any():
                continue  # padding, or the first token of the next pack
            alone = apart(
                torch.from_numpy(conversation[None, :-1].copy()),
                alone_layout(kind, learnt.tolist(), two_dimensional=two_dimensional),
            ).transpose(0, 1)[..., : config.vocabulary_size]
            here = logits[sample, part.offset : part.offset + len(conversation) - 1]
            torch.testing.assert_close(here, alone[0], **TOLERANCE)
            ours = nll(alone, torch.from_numpy(conversation[None, 1:].copy())) * torch.from_numpy(
                learnt[None, 1:].copy()
            )
            (ours.sum() * scale).backward()
            total += float(ours.detach().sum() * scale)
            found += 1
    assert found == len(documents)
    assert float(loss.detach()) == pytest.approx(total, rel=1e-5)
    for (key, one), (_, other) in zip(together.named_global_parameters(), apart.named_global_parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None and other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4, msg=key)


def test_boundaries_by_token_are_seen(tmp_path: Path) -> None:
    """The fault: a conversation is taken to end where one of its turns does. It shows in the gradients."""
    config = small_model("bloom").model_copy(update={"vocabulary_size": 300})
    reader = SampleReader(load_mixture(write_masked(tmp_path, pack=LENGTH, talks=talks("causal"))), LENGTH, 1)
    packs = reader.datasets[0].packs
    batches = Batches(reader, packs, objective=Objective(objective_of("causal")))
    (tokens, layout), (targets, weights) = next(batches.training(0, BatchSizes(packs)))
    gradients = []
    for used in (layout, torch.from_numpy(separate_documents((tokens == END).numpy()))):
        model = build(config)
        logits = model(tokens, used).transpose(0, 1)[..., : config.vocabulary_size]
        (nll(logits, targets) * weights).sum().backward()
        grad = dict(model.named_global_parameters())["layers.0.attention.query_key_value.weight"].grad
        assert grad is not None
        gradients.append(grad)
    right, wrong = gradients
    assert float((right - wrong).norm() / right.norm()) > 0.01


@pytest.mark.parametrize("weighting", ["token", "document", "sample"])
@pytest.mark.parametrize("kind", ["causal", "prefix"])
def test_weights_of_packs(tmp_path: Path, weighting: str, kind: str) -> None:
    """By hand: each learnt token, each conversation, or each pack counts alike in the global batch."""
    reader = SampleReader(load_mixture(write_masked(tmp_path, pack=LENGTH, talks=talks("causal", 30))), LENGTH, 1)
    size = reader.datasets[0].packs
    expected = np.zeros((size, LENGTH))
    for sample in range(size):
        parts = [part for part in reader.describe(sample).parts if part.stop - part.start > 1]
        masks = [reader.datasets[0].loss_mask(*reader.datasets[0].document_range(part.document)) for part in parts]
        for part, mask in zip(parts, masks, strict=True):
            alike = {"token": 1, "document": max(mask.sum(), 1), "sample": sum(one.sum() for one in masks)}
            for place in np.flatnonzero(mask):
                expected[sample, part.offset + place - 1] = 1 / alike[weighting]
    expected *= size / expected.sum()
    for micro_batch_size, data_size in ((size, 1), (1, 1)):
        batches = Batches(reader, micro_batch_size, 0, data_size, Objective(objective_of(kind, weighting)))
        made = batches.training(0, BatchSizes(size))
        seen = np.concatenate([next(made)[1][1].numpy() for _ in range(size // micro_batch_size)])
        np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_skips_and_held_out_parts(tmp_path: Path) -> None:
    mixture = load_mixture(write_masked(tmp_path, pack=LENGTH, talks=talks("causal", 30)))
    reader = SampleReader(mixture, LENGTH, 1)
    objective = Objective(objective_of("causal"))
    everything = Batches(reader, 1, objective=objective).training(0, BatchSizes(1))
    seen = [next(everything)[0][0][0].tolist() for _ in range(6)]
    reader.skipped = SkippedRanges([(1, 3)])
    some = Batches(reader, 1, objective=objective).training(0, BatchSizes(1))
    assert [next(some)[0][0][0].tolist() for _ in range(4)] == [seen[0], *seen[3:]]
    held_out = SampleReader(mixture, LENGTH, 1, "heldout")
    (part,) = Batches(held_out, 1, objective=objective).held_out_parts(1000)
    assert len(part.samples) == held_out.datasets[0].packs
    assert part.targets == sum(sum(learnt) for _, learnt in talks("causal", 30))


def test_an_answer_that_does_not_follow_a_blank_is_refused() -> None:
    tokens = np.array([[10, 11, 12, 13, END]])
    opens, learnt = np.array([[True, False, False, False, False]]), np.array([[False, False, True, True, False]])
    with pytest.raises(ValueError, match=r"follows the tokens \[11, 12\]; it must follow mask_token 5 or long_mask"):
        answer_layout(tokens, opens, learnt, objective_of("blank_infilling"), two_dimensional=True)


def config_for(mixture: Path, **changes: Any) -> Any:
    return tiny_config(
        data={"mixture": str(mixture), "sequence_length": LENGTH},
        model__vocabulary_size=300,
        model__maximum_positions=LENGTH,
        **changes,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"objective.separate_documents: must be true for .*: dataset 'talks' is packed"),
        (
            {"objective__separate_documents": True, "data__sequence_length": 50},
            r"dataset 'talks' is packed to 100 tokens, but data.sequence_length is 50, .* tokens.pack=50",
        ),
        (
            {"objective__separate_documents": True, "data__phases": [{"from_sample": 8, "sequence_length": 20}]},
            r"dataset 'talks' is packed to 100 tokens, but data.sequence_length is 20, or that of a phase",
        ),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    config = config_for(write_masked(tmp_path, pack=LENGTH, talks=talks("causal")), **changes)
    with pytest.raises(ValueError, match=message):
        open_data(config, Topology(pipe=1, data=1, tensor=1), 0)


def test_kinds_that_cut_documents_take_packs_only(tmp_path: Path) -> None:
    """Loss masks, and documents that weigh alike, need packs where an objective does not predict every token."""
    plain = [([10, 11, 12, END], [True] * 4)] * 60
    masked = config_for(write_masked(tmp_path, talks=talks("causal", 30)), objective__kind="prefix")
    with pytest.raises(ValueError, match=r"objective.kind: prefix cannot be trained on .*: its token files have loss"):
        open_data(masked, Topology(pipe=1, data=1, tensor=1), 0)
    path = write_masked(tmp_path, talks=plain)
    (tmp_path / "talks.loss_mask").unlink()
    path.write_text(re.sub(r" *loss_mask: .*\n", "", path.read_text()))
    by_document = config_for(path, objective={"kind": "prefix", "weighting": "document"})
    with pytest.raises(ValueError, match=r"objective.weighting: document needs kind causal or packs of conversations"):
        open_data(by_document, Topology(pipe=1, data=1, tensor=1), 0)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    path = write_masked(tmp_path, pack=LENGTH, talks=talks("causal"))
    config = config_for(path, objective__separate_documents=True)
    assert open_data(config, Topology(pipe=1, data=1, tensor=1), 0).training.is_packed
    path.write_text(path.read_text().replace("packed: 100", "packed: 50"))
    with pytest.raises(
        ValueError, match=r"packs of 50 tokens and one more token make \d+, but it has \d+: `packed` of"
    ):
        open_data(config.model_copy(update={"data": config.data.model_copy(update={"sequence_length": 50})}),
                  Topology(pipe=1, data=1, tensor=1), 0)  # fmt: skip
    path.write_text(path.read_text().replace("packed: 50", "packed: yes"))
    with pytest.raises(ConfigError, match=r"mixture.yaml:\d+: datasets.0.packed: 'yes' is not allowed"):
        load_mixture(path)
