"""How much each target counts, against weights counted by hand from documents and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.indexed_dataset.reader import IndexedDataset
from pretrain.config import ObjectiveConfig
from pretrain.data.batch_sizes import BatchSizes
from pretrain.data.batches import Batches
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import load_mixture
from pretrain.data.objective import Objective
from pretrain.data.weights import document_boundaries
from pretrain.model.layout import FIRST_SEEN
from tests.masked_tokens import END, Documents, conversations, write_masked

LENGTH = 16


def write(folder: Path, **sources: Documents) -> SampleReader:
    return SampleReader(load_mixture(write_masked(folder, **sources)), LENGTH, 1)


def objective(weighting: str, **settings: object) -> Objective:
    return Objective(ObjectiveConfig.model_validate({"weighting": weighting, **settings}))


def expected_weights(reader: SampleReader, sample: int, weighting: str) -> np.ndarray:
    """Relative weights of a sample's targets, one by one."""
    described = reader.describe(sample)
    dataset = reader.datasets[reader.names.index(described.dataset)]
    weights = np.zeros(LENGTH)
    for place in range(LENGTH):
        token = described.start + 1 + place
        if dataset.loss_mask(token, token + 1)[0]:
            document = dataset.document_range(dataset.document_at(token))
            window = dataset.loss_mask(described.start + 1, described.stop)
            alike = {"token": 1, "document": dataset.loss_mask(*document).sum(), "sample": window.sum()}
            weights[place] = 1 / alike[weighting]
    return weights


@pytest.mark.parametrize("weighting", ["token", "document", "sample"])
def test_weights_are_those_of_the_whole_global_batch(tmp_path: Path, weighting: str) -> None:
    reader = write(tmp_path, talks=conversations(1, 80), pages=conversations(2, 40))
    size = 24
    first = np.stack([expected_weights(reader, sample, weighting) for sample in range(size)])
    assert (first.sum(1) == 0).any(), "windows without targets are among them"
    expected = first * size / first.sum()
    for micro_batch_size, data_size in ((24, 1), (1, 1), (2, 3), (4, 2)):
        seen = np.zeros((size, LENGTH))
        for rank in range(data_size):
            batches = Batches(reader, micro_batch_size, rank, data_size, objective(weighting))
            made = batches.training(0, BatchSizes(size))
            for rows in np.arange(size).reshape(-1, data_size, micro_batch_size)[:, rank]:
                _, (_, weights) = next(made)
                seen[rows] = weights
        np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_evaluation_weighs_over_all_that_is_held_out(tmp_path: Path) -> None:
    write(tmp_path, talks=conversations(1, 80), pages=conversations(2, 40))
    held_out = SampleReader(load_mixture(tmp_path / "mixture.yaml"), LENGTH, 1, "heldout")
    for weighting in ("token", "document", "sample"):
        parts = Batches(held_out, 3, objective=objective(weighting)).held_out_parts(50)
        assert [part.dataset for part in parts] == ["talks", "pages"]
        for part in parts:
            expected = [expected_weights(held_out, sample, weighting) for sample in part.samples.tolist()]
            assert part.weight == pytest.approx(np.sum(expected)) and part.targets == np.count_nonzero(expected)
            batches, count = Batches(held_out, 3, objective=objective(weighting)).evaluation(part)
            weights = np.concatenate([labels[1].numpy() for _, labels in batches])
            assert len(weights) == 3 * count
            scale = len(weights) / np.sum(expected)
            np.testing.assert_allclose(weights[: len(expected)], np.array(expected) * scale, rtol=1e-6)
            assert not weights[len(expected) :].any()


def test_data_without_any_target_is_refused(tmp_path: Path) -> None:
    silent = [(tokens, [False] * len(tokens)) for tokens, _ in conversations(3, 30)]
    reader = write(tmp_path, talks=conversations(1, 80), silent=silent)
    with pytest.raises(ValueError, match=r"mixture\.yaml: dataset 'silent': by its loss mask no token in any of its"):
        Batches(reader, 1)
    # The first token of a stream and its tail are never targets.
    silent[0][1][0] = True
    (tmp_path / "again").mkdir()
    with pytest.raises(ValueError, match="dataset 'silent'"):
        Batches(write(tmp_path / "again", silent=silent), 1)


def test_a_global_batch_without_targets_has_no_micro_batches(tmp_path: Path) -> None:
    documents = [([*range(10, 25), END], [number == 7] * 16) for number in range(40)]
    reader = write(tmp_path, talks=documents)
    batches = Batches(reader, 1)
    learnt = [number for number in range(9) if batches.has_targets(4 * number, 4)]
    assert 1 <= len(learnt) < 9
    made = batches.training(0, BatchSizes(4))
    for number in learnt:
        rows = [next(made) for _ in range(4)]
        assert [row[0][0].tolist() for row in rows] == [reader.sample(4 * number + i)[:-1].tolist() for i in range(4)]
        assert sum(float(row[1][1].sum()) for row in rows) == pytest.approx(4)


def test_documents_end_where_the_index_says(tmp_path: Path) -> None:
    """A conversation whose turns end with the end-of-document token stays in one piece."""
    documents = [[10, 11, END, 12, END], [13, END], [14, 15], [16, 17, END], [END], [18, END, END], [19]]
    write(tmp_path, talks=[(tokens, [True] * len(tokens)) for tokens in documents])
    dataset = IndexedDataset(tmp_path / "talks")
    stream = [token for tokens in documents for token in tokens]
    starts = np.cumsum([0] + [len(tokens) for tokens in documents])[:-1]
    opens, crosses = np.zeros((2, len(stream)), bool)
    for start, tokens in zip(starts.tolist(), documents, strict=True):
        if tokens and start and stream[start - 1] == END:
            opens[start - 1] = True
        elif tokens:
            opens[start] = crosses[start] = True
    for first in range(len(stream)):
        for last in range(first + 1, len(stream) + 1):
            found = document_boundaries(dataset, first, last, END)
            expected = opens[first:last].copy()
            np.testing.assert_array_equal(found[0], expected, err_msg=f"[{first}, {last})")
            np.testing.assert_array_equal(found[1], crosses[first:last], err_msg=f"[{first}, {last})")


def test_separate_documents_do_not_learn_across_boundaries(tmp_path: Path) -> None:
    documents = [([3 + 10 * n + i for i in range(5)], [True] * 5) for n in range(12)]
    documents[3][0][2] = END  # inside of a document, where it opens nothing
    reader = write(tmp_path, pages=documents)
    batches = Batches(reader, 1, objective=objective("token", separate_documents=True)).training(0, BatchSizes(1))
    for sample in range(3):
        (tokens, layout), (targets, weights) = next(batches)
        described = reader.describe(sample)
        for place in range(LENGTH):
            token = described.start + place
            assert layout[0, place, FIRST_SEEN] == max(token // 5 * 5 - described.start, 0)
            assert (float(weights[0, place]) > 0) == ((token + 1) % 5 != 0), "a first token cannot be predicted"
        assert tokens.shape == targets.shape
