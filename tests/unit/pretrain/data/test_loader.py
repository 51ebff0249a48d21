"""Samples against the files they come from, and batches against samples."""

from __future__ import annotations

import itertools
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from data_prep.indexed_dataset.format import TokenFileError
from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.indexed_dataset.writer import IndexedDatasetWriter
from foundation.atomic_files import sha256_file
from foundation.configuration import ConfigError
from pretrain.data.batch_sizes import BatchSizes, Ramp
from pretrain.data.batches import Batches
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import load_mixture
from pretrain.data.phases import PhaseChange
from tools.bench.tokens import write_mixture

VOCABULARY_SIZE = 5000
END = 2


def write_documents(prefix: Path, seed: int, count: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    with IndexedDatasetWriter(prefix, VOCABULARY_SIZE) as writer:
        for _ in range(count):
            writer.add_document(np.append(random.integers(3, VOCABULARY_SIZE, random.integers(0, 40)), END))
    return {
        "documents": writer.documents,
        "tokens": writer.tokens,
        "sha256": {path.suffix[1:]: digest for path, digest in writer.digests.items()},
    }


def make_mixture(folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    datasets = []
    for i, (name, count, weight) in enumerate([("books", 120, 3), ("code", 60, 1), ("manuals", 40, 0.5)]):
        train = write_documents(folder / name, i, count)
        heldout = write_documents(folder / f"{name}.heldout", 10 + i, 20)
        datasets.append(
            {
                "name": name,
                "path": name,
                "heldout": f"{name}.heldout",
                **train,
                "weight": weight,
                "heldout_documents": heldout["documents"],
                "heldout_tokens": heldout["tokens"],
                "heldout_sha256": heldout["sha256"],
            }
        )
    mixture = {
        "version": 1,
        "tokenizer": "../tokenizer",
        "vocabulary_size": VOCABULARY_SIZE,
        "end_of_document": END,
        "datasets": datasets,
    }
    (folder / "mixture.yaml").write_text(yaml.safe_dump(mixture))
    return mixture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "tokens"
    make_mixture(folder)
    return folder


@pytest.fixture
def changed(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(folder, tmp_path / "tokens"))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "mixture.yaml"
    mixture = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        target, *rest = key.split("__")
        if rest:
            mixture["datasets"][int(rest[0])][target] = value
        else:
            mixture[target] = value
    path.write_text(yaml.safe_dump(mixture))


def reader(folder: Path, sequence_length: int = 16, seed: int = 5, split: Any = "train") -> SampleReader:
    return SampleReader(load_mixture(folder / "mixture.yaml"), sequence_length, seed, split)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_token_comes_from_where_the_description_says(folder: Path, split: str) -> None:
    samples = reader(folder, split=split)
    for i in range(samples.sample_count or 100):
        description = samples.describe(i)
        dataset = IndexedDataset(folder / (description.dataset + ("" if split == "train" else ".heldout")))
        sample = samples.sample(i)
        assert sample.dtype == np.int64 and sample.shape == (17,)
        assert (description.start, description.stop) == (description.window * 16, description.window * 16 + 17)
        np.testing.assert_array_equal(sample, dataset.tokens(description.start, description.stop))
        rebuilt = np.concatenate([dataset.document(p.document)[p.start : p.stop] for p in description.parts])
        np.testing.assert_array_equal(sample, rebuilt)
        offset = 0
        for part in description.parts:
            assert part.offset == offset and part.stop > part.start
            offset += part.stop - part.start
        # Between two parts stands the end of a document.
        ends = [part.offset + part.stop - part.start - 1 for part in description.parts[:-1]]
        assert all(sample[end] == END for end in ends)


def test_an_epoch_trains_on_each_token_but_the_first_and_the_tail(folder: Path) -> None:
    samples = reader(folder)
    sizes = {name: dataset.token_count for name, dataset in zip(samples.names, samples.datasets, strict=True)}
    targets = {name: np.zeros(size, np.int64) for name, size in sizes.items()}
    for i in range(600):
        description = samples.describe(i)
        if description.epoch == 0:
            targets[description.dataset][description.start + 1 : description.stop] += 1
    for name in ("books", "code"):  # the ones whose first epoch is over by then
        right = np.ones(sizes[name], np.int64)
        right[0] = 0
        right[sizes[name] - (sizes[name] - 1) % samples.sequence_length :] = 0
        np.testing.assert_array_equal(targets[name], right)


@pytest.mark.parametrize(("micro_batch_size", "data_size"), [(1, 1), (2, 1), (1, 4), (2, 2), (4, 3), (12, 1)])
def test_global_batches_do_not_depend_on_their_division(folder: Path, micro_batch_size: int, data_size: int) -> None:
    samples = reader(folder)
    global_batch_size, first_sample, steps = 12, 36, 3
    accumulation = global_batch_size // (micro_batch_size * data_size)
    seen = np.full((steps * global_batch_size, 17), -1)
    for rank in range(data_size):
        batches = Batches(samples, micro_batch_size, rank, data_size).training(
            first_sample, BatchSizes(global_batch_size)
        )
        for k in range(steps * accumulation):
            tokens_BS, labels_BS = next(batches)
            assert tokens_BS.dtype == labels_BS.dtype == torch.int64
            assert tokens_BS.shape == labels_BS.shape == (micro_batch_size, 16)
            assert torch.equal(tokens_BS[:, 1:], labels_BS[:, :-1])
            for j in range(micro_batch_size):
                row = k * micro_batch_size * data_size + rank * micro_batch_size + j
                assert seen[row, 0] == -1, "two ranks see the same sample"
                seen[row] = np.append(tokens_BS[j].numpy(), labels_BS[j, -1])
    np.testing.assert_array_equal(seen, samples.samples(first_sample + np.arange(steps * global_batch_size)))


@pytest.mark.parametrize("data_size", [1, 2])
def test_growing_batches_hold_the_samples_of_a_constant_one(folder: Path, data_size: int) -> None:
    """2, 4, 6 and 8 samples a step over the first 18: the rows in their order, also from the middle of the ramp."""
    samples = reader(folder)
    sizes = BatchSizes(8, Ramp(start=2, increment=2, samples=18))
    for first_position in (0, sizes.after(4)):
        seen, position = [], first_position
        ranks = [Batches(samples, 1, rank, data_size).training(first_position, sizes) for rank in range(data_size)]
        for _ in range(6):
            for _ in range(sizes.at(position) // data_size):
                seen += [next(batches)[0][0].numpy() for batches in ranks]
            position += sizes.at(position)
        np.testing.assert_array_equal(seen, samples.samples(np.arange(first_position, position))[:, :-1])


def test_batches_go_on_where_a_resumed_run_stands(folder: Path) -> None:
    samples = reader(folder)
    whole = Batches(samples, 2, 0, 1).training(0, BatchSizes(4))
    for _ in range(2 * 3):
        next(whole)
    again = Batches(samples, 2, 0, 1).training(12, BatchSizes(4))
    for resumed, (tokens_BS, labels_BS) in zip(again, whole, strict=False):
        assert torch.equal(resumed[0], tokens_BS) and torch.equal(resumed[1], labels_BS)
        break


def test_skipped_samples_are_jumped_over(folder: Path) -> None:
    samples = reader(folder)
    skipping = SampleReader(load_mixture(folder / "mixture.yaml"), 16, 5, skipped=[(8, 20), (24, 28)])
    assert skipping.digest() == samples.digest(), "the plan is the same, whatever is skipped"
    left = [*range(8), *range(20, 24), *range(28, 40)]
    batches = Batches(skipping, 2, 0, 1).training(0, BatchSizes(4))
    found = np.concatenate([next(batches)[0].numpy() for _ in range(len(left) // 2)])
    np.testing.assert_array_equal(found, samples.samples(left)[:, :-1])
    resumed = Batches(skipping, 2, 0, 1).training(12, BatchSizes(4))
    np.testing.assert_array_equal(next(resumed)[0].numpy(), samples.samples([28, 29])[:, :-1])


def test_phases_change_weights_and_length(folder: Path) -> None:
    mixture = load_mixture(folder / "mixture.yaml")
    phases = [
        PhaseChange(from_sample=20, weights={"code": 1.0}),
        PhaseChange(from_sample=32, sequence_length=40),
    ]
    samples = SampleReader(mixture, 16, 5, phases=phases)
    np.testing.assert_array_equal(samples.samples(np.arange(20)), reader(folder).samples(np.arange(20)))
    assert {samples.describe(i).dataset for i in range(20, 60)} == {"code"}
    shapes = [
        tokens_BS.shape for tokens_BS, _ in itertools.islice(Batches(samples, 2, 0, 1).training(0, BatchSizes(4)), 20)
    ]
    assert shapes == [(2, 16)] * 16 + [(2, 40)] * 4
    assert (samples.tokens_before(32), samples.tokens_before(34)) == (32 * 16, 32 * 16 + 2 * 40)
    for i in (31, 32):
        described = samples.describe(i)
        dataset = IndexedDataset(folder / described.dataset)
        np.testing.assert_array_equal(samples.sample(i), dataset.tokens(described.start, described.stop))
    assert samples.digest(before=20) == reader(folder).digest()
    assert samples.digest(before=21) != reader(folder).digest() != samples.digest()
    with pytest.raises(ValueError, match=r"changes from 16 to 40 at sample 32, in the middle .* samples 30 to 33"):
        list(itertools.islice(Batches(samples, 2, 0, 1).training(30, BatchSizes(4)), 1))
    with pytest.raises(ValueError, match="lengths 16, 40"):
        samples.samples([31, 32])
    with pytest.raises(ValueError, match=r"mixture.yaml: phase from sample 4: no dataset is called web; there are"):
        SampleReader(mixture, 16, 5, phases=[PhaseChange(from_sample=4, weights={"web": 1})])


def test_datasets_that_arrive_during_a_run_change_nothing_before(folder: Path) -> None:
    """A run on some datasets goes on with a mixture of more, which a phase brings in."""
    values = yaml.safe_load((folder / "mixture.yaml").read_text())
    names = [entry["name"] for entry in values["datasets"]]
    (folder / "less.yaml").write_text(yaml.safe_dump({**values, "datasets": values["datasets"][1:]}))
    less, more = load_mixture(folder / "less.yaml"), load_mixture(folder / "mixture.yaml")
    begun = SampleReader(less, 16, 5)
    weights = {entry.name: entry.weight for entry in less.datasets}
    phases = [PhaseChange(from_sample=24, weights=dict.fromkeys(names, 1.0))]
    grown = SampleReader(more, 16, 5, weights=weights, phases=phases)
    assert grown.digest(before=24) == begun.digest() != grown.digest(before=25)
    np.testing.assert_array_equal(grown.samples(np.arange(24)), begun.samples(np.arange(24)))
    assert names[0] in {grown.describe(i).dataset for i in range(24, 64)}
    with pytest.raises(ValueError, match=r"data\.weights: no dataset is called talks; there are"):
        SampleReader(more, 16, 5, weights={"talks": 1.0})
    with pytest.raises(ValueError, match="held-out samples have none"):
        SampleReader(more, 16, 5, "heldout", weights=weights)


def test_a_trillion_tokens_are_opened_without_reading_them(tmp_path: Path) -> None:
    """Sparse files: 10**12 tokens, 2 TB. Reading them or making an index of samples would need gigabytes."""
    mixture = write_mixture(tmp_path / "vast", datasets=10, tokens=10**11, sparse=True)
    tracemalloc.start()
    samples = SampleReader(load_mixture(mixture), 2048, 1)
    samples.digest()
    tokens_BS, _ = next(Batches(samples, 4, 0, 1).training(10**9, BatchSizes(64)))
    places = samples.locate(np.arange(10**9, 10**9 + 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tokens_BS.shape == (4, 2048) and not tokens_BS.any()
    assert np.ptp(places.window) > 10**7, "samples come from everywhere"
    assert peak < 20_000_000


def windows_of(samples: SampleReader) -> list[int]:
    """Windows of each dataset, by the definition."""
    return [(dataset.token_count - 1) // samples.sequence_length for dataset in samples.datasets]


def test_heldout_windows_come_once_and_mixed(folder: Path) -> None:
    samples = reader(folder, split="heldout")
    assert samples.sample_count is not None
    places = samples.locate(np.arange(samples.sample_count))
    expected = [(d, w) for d, windows in enumerate(windows_of(samples)) for w in range(windows)]
    found = list(zip(places.dataset.tolist(), places.window.tolist(), strict=True))
    assert sorted(found) == expected
    assert found != expected
    assert len({d for d, _ in found[: len(found) // 3]}) == len(samples.names), "the first samples miss a source"
    other = reader(folder, seed=6, split="heldout").locate(np.arange(samples.sample_count))
    assert other.window.tolist() == places.window.tolist(), "another seed is measured on other text"
    with pytest.raises(ValueError, match="there are only"):
        samples.sample(samples.sample_count)


def test_the_last_heldout_batch_is_filled_up_with_what_does_not_count(folder: Path) -> None:
    samples = reader(folder, split="heldout")
    ranks = [Batches(samples, 2, rank, 2) for rank in range(2)]
    parts = ranks[0].held_out_parts(10**6)
    assert [part.dataset for part in parts] == list(samples.names)
    assert sum(part.targets for part in parts) == sum(windows_of(samples)) * samples.sequence_length
    assert [part.weight for part in parts] == [part.targets for part in parts]
    evaluated = []
    for part in parts:
        made = [ranks[rank].evaluation(part) for rank in range(2)]
        assert [count for _, count in made] == [-(-len(part.samples) // 4)] * 2
        rows, total = [], 0.0
        for pair in zip(*(batches for batches, _ in made), strict=True):
            for tokens, labels in pair:
                whole = torch.full(labels.shape, 1 / tokens.shape[1]) if torch.is_tensor(labels) else labels[1]
                total += float(whole.sum())
                rows += [row for row, weight in zip(tokens.tolist(), whole.tolist(), strict=True) if any(weight)]
        assert total == pytest.approx(4 * -(-len(part.samples) // 4)), "the mean over rows is that over what counts"
        assert rows == [samples.sample(i)[:-1].tolist() for i in part.samples]
        evaluated += part.samples.tolist()
    assert sorted(evaluated) == list(range(samples.sample_count or 0))
    some = ranks[0].held_out_parts(7)
    assert sorted(i for part in some for i in part.samples.tolist()) == list(range(7)), "the first samples, as before"


def test_digest_follows_content_and_not_place(folder: Path, changed: Path) -> None:
    original = reader(folder).digest()
    assert reader(changed).digest() == original
    assert reader(folder, seed=6).digest() != original
    assert reader(folder, sequence_length=17).digest() != original
    assert reader(folder, split="heldout").digest() != original
    edit(changed, weight__0=4)
    assert reader(changed).digest() != original


@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_digest_notices_other_files_of_the_same_size(folder: Path, changed: Path, suffix: str) -> None:
    original = reader(folder).digest()
    path = changed / f"code.{suffix}"
    data = bytearray(path.read_bytes())
    if suffix == "bin":
        data[100] ^= 1
    else:  # two neighbouring documents of other sizes, and the offset between them
        sizes = IndexedDataset(changed / "code").sequence_sizes.copy()
        sizes[4], sizes[5] = sizes[4] + 1, sizes[5] - 1
        data[34 : 34 + sizes.nbytes] = sizes.tobytes()
        offset = 34 + sizes.nbytes + 8 * 5
        pointer = int.from_bytes(data[offset : offset + 8], "little") + 2
        data[offset : offset + 8] = pointer.to_bytes(8, "little")
    path.write_bytes(data)
    assert reader(changed).digest() != original
    with pytest.raises(TokenFileError, match=rf"code\.{suffix}: SHA-256 is .* records"):
        load_mixture(changed / "mixture.yaml").check_checksums()


def test_checksums_of_good_files(folder: Path) -> None:
    load_mixture(folder / "mixture.yaml").check_checksums()


def test_a_dataset_shorter_than_a_window(folder: Path) -> None:
    tokens = IndexedDataset(folder / "manuals").token_count
    message = rf"mixture\.yaml: dataset 'manuals' has {tokens} tokens, fewer than one window .* {tokens} \+ 1"
    with pytest.raises(ValueError, match=message):
        reader(folder, sequence_length=tokens)
    reader(folder, sequence_length=tokens - 1)
    with pytest.raises(ValueError, match=r"no held-out part fills a window of sequence_length 10000"):
        reader(folder, sequence_length=10_000, split="heldout")


def test_files_that_are_not_the_mixtures(changed: Path) -> None:
    edit(changed, tokens__1=7)
    with pytest.raises(TokenFileError, match=r"code\.bin: 60 documents and \d+ tokens, but .* counts 60 and 7"):
        reader(changed)


def test_a_truncated_bin_is_named(changed: Path) -> None:
    path = changed / "code.bin"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TokenFileError, match=r"code\.bin: truncated"):
        reader(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end_of_document": 5000}, r"end_of_document 5000 must be below vocabulary_size 5000"),
        ({"weight__1": 0}, r"mixture\.yaml:\d+: datasets\.1\.weight: 0"),
        ({"weigth__1": 1}, r"did you mean 'weight'"),
        ({"name__1": "books"}, r"'books' is given twice"),
        ({"version": 2}, r"version"),
        ({"datasets": []}, r"datasets"),
    ],
)
def test_mixtures_that_are_refused(changed: Path, change: dict[str, Any], message: str) -> None:
    edit(changed, **change)
    with pytest.raises(ConfigError, match=message):
        load_mixture(changed / "mixture.yaml")


def test_no_mixture(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mixture\.yaml: no such file; `altiplano data tokenize`"):
        load_mixture(tmp_path / "mixture.yaml")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((12, 5, 0, 1), r"a global batch of 12 samples must be a multiple of micro_batch_size 5 times .* degree 1, 5"),
        ((12, 4, 3, 3), r"data_rank 3 must be in \[0, 3\)"),
        ((0, 1, 0, 1), "a global batch of 0 samples"),
    ],
)
def test_batch_sizes_that_are_refused(folder: Path, sizes: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(Batches(reader(folder), *sizes[1:]).training(0, BatchSizes(sizes[0])))


def test_loss_masks_travel_with_their_tokens(changed: Path) -> None:
    """The weights of a batch are those of the targets, wherever the sample comes from."""
    data = np.random.default_rng(3).integers(0, 2, IndexedDataset(changed / "books").token_count).astype(np.uint8)
    (changed / "books.loss_mask").write_bytes(data.tobytes())
    with pytest.raises(TokenFileError, match=r"books\.loss_mask: exists, but .*mixture\.yaml does not record it"):
        reader(changed)
    mixture = yaml.safe_load((changed / "mixture.yaml").read_text())
    mixture["datasets"][0]["sha256"]["loss_mask"] = sha256_file(changed / "books.loss_mask")
    (changed / "mixture.yaml").write_text(yaml.safe_dump(mixture))
    samples = reader(changed)
    load_mixture(changed / "mixture.yaml").check_checksums()
    batches = Batches(samples, 4).training(0, BatchSizes(8))
    for start in range(0, 80, 8):
        seen, expected = [], []
        for first in range(start, start + 8, 4):
            tokens, (targets, weights) = next(batches)
            seen += weights.tolist()
            for row in range(4):
                place = samples.describe(first + row)
                np.testing.assert_array_equal(tokens[row], samples.sample(first + row)[:-1])
                np.testing.assert_array_equal(targets[row], samples.sample(first + row)[1:])
                masked = place.dataset == "books"
                expected.append(data[place.start + 1 : place.stop] if masked else np.ones(16, np.uint8))
        np.testing.assert_allclose(seen, np.array(expected) * 8 / np.sum(expected), rtol=1e-6)
