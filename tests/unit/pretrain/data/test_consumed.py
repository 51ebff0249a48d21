"""Consumption computed from the plan equals counting sample by sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from pretrain.data.consumed import consumed_by_dataset
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import load_mixture
from pretrain.data.phases import PhaseChange
from tests.small_run import write_tokens


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    datasets = []
    for seed, (name, weight) in enumerate({"code": 5.0, "books": 3.0, "web": 1.5}.items()):
        facts = write_tokens(folder / name, 60, seed)
        empty = {"heldout": None, "heldout_documents": 0, "heldout_tokens": 0, "heldout_sha256": None}
        datasets.append({"name": name, "path": name, "weight": weight, **facts, **empty})
    content = {"version": 1, "tokenizer": "t", "vocabulary_size": 300, "end_of_document": 2, "datasets": datasets}
    (folder / "mixture.yaml").write_text(yaml.safe_dump(content))
    return folder / "mixture.yaml"


@pytest.mark.parametrize("position", [0, 1, 39, 40, 41, 100, 333, 1000])
def test_it_is_what_counting_gives(mixture: Path, position: int) -> None:
    phases = [
        PhaseChange(from_sample=50, weights={"books": 2.0, "web": 1.0}),
        PhaseChange(from_sample=400, sequence_length=16),
    ]
    reader = SampleReader(load_mixture(mixture), 32, 7, phases=phases, skipped=[(40, 60), (90, 95), (395, 410)])
    samples = reader.skipped.samples_at(np.arange(position))
    dataset, lengths = reader.locate(samples).dataset, reader.lengths(samples)
    for d, consumed in enumerate(consumed_by_dataset(reader, position)):
        assert consumed.name == reader.names[d]
        assert consumed.samples == int((dataset == d).sum())
        assert consumed.tokens == int(lengths[dataset == d].sum())
        assert consumed.epochs == pytest.approx(consumed.tokens / reader.datasets[d].token_count)
    assert sum(consumed.tokens for consumed in consumed_by_dataset(reader, position)) == reader.tokens_before(position)
