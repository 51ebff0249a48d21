"""The shuffle against a sort in memory: any records, runs and ranges, in a few KB, with a few open files."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from data_prep.run import shuffle
from data_prep.run.shuffle import Records, RecordType, collect, grouped, hash_bounds, joined, new_run, ranges_for

KINDS = (
    RecordType((("key", "<u8"), ("value", "<i8"))),
    RecordType((("key", "<u8"), ("more", "<u8"), ("value", "<i8"), ("flag", "?")), 2),
    RecordType((("key", "<u8"), ("more", "<i8"), ("less", "<u8"), ("value", "<f8")), 3),
)
LITTLE = 4096


def random_records(generator: np.random.Generator, kind: RecordType, count: int, distinct: int) -> Records:
    """Records whose keys have few values, so that many are equal; `value` numbers them."""
    keys = generator.integers(0, 2**64, size=distinct, dtype=np.uint64)
    columns: list[npt.NDArray[np.generic]] = []
    for name, _ in kind.fields:
        if name == "key":
            columns.append(keys[np.minimum(generator.geometric(0.3, size=count) - 1, distinct - 1)])
        elif name == "value":
            columns.append(np.arange(count))
        else:
            columns.append(generator.integers(0, 3, size=count))
    return kind.of(*columns)


def in_memory(records: Records, kind: RecordType) -> Records:
    """The plain twin: a stable sort by the key, in Python."""
    order = sorted(range(len(records)), key=lambda k: kind.key(records[k]))
    return records[order]


def spread(folder: Path, kind: RecordType, parts: list[Records], ranges: int, memory_bytes: int) -> list[Path]:
    paths = [folder / f"run-{number:03d}" for number in range(len(parts))]
    for path, records in zip(paths, parts, strict=True):
        with new_run(path, kind, hash_bounds(ranges), memory_bytes) as run:
            for some in np.array_split(records, 3):
                run.add(*(some[name] for name, _ in kind.fields))
    return paths


@pytest.mark.parametrize("seed", range(12))
def test_what_is_collected_is_what_a_sort_in_memory_gives(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    records = random_records(generator, kind, int(generator.integers(0, 4000)), int(generator.integers(1, 400)))
    parts = np.array_split(records, generator.integers(1, 40))
    ranges = int(generator.integers(1, 9))
    bounds = [0, *hash_bounds(ranges).tolist(), 2**64]
    runs = {}
    for memory_bytes in (LITTLE, 10**8):
        (tmp_path / str(memory_bytes)).mkdir()
        paths = spread(tmp_path / str(memory_bytes), kind, parts, ranges, memory_bytes)
        runs[memory_bytes] = [path.read_bytes() for path in paths]
        for number in range(ranges):
            inside = [bounds[number] <= int(key) < bounds[number + 1] for key in records["key"]]
            found = joined(collect(paths, kind, ranges, number, memory_bytes), kind)
            assert np.array_equal(found, in_memory(records[np.array(inside, dtype=bool)], kind))
    assert runs[LITTLE] == runs[10**8]


def test_the_order_of_equal_keys_is_that_of_the_runs(tmp_path: Path) -> None:
    """One key only, more records of it than fit in memory."""
    kind = KINDS[0]
    records = kind.of(np.full(5000, 7, np.uint64), np.arange(5000))
    paths = spread(tmp_path, kind, np.array_split(records, 9), 1, LITTLE)
    blocks = list(collect(paths, kind, 1, 0, LITTLE))
    assert len(blocks) > 20
    assert np.array_equal(joined(blocks, kind)["value"], np.arange(5000))


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_files_stay_few_and_memory_small_whatever_the_number_of_runs(tmp_path: Path) -> None:
    """Three hundred runs, of which ten fit in memory: they are merged in several passes."""
    kind, memory_bytes = KINDS[0], 1 << 15
    generator = np.random.default_rng(1)
    peaks = []
    for runs in (30, 300):
        records = random_records(generator, kind, runs * 400, 10**6)
        (tmp_path / str(runs)).mkdir()
        paths = spread(tmp_path / str(runs), kind, np.array_split(records, runs), 1, memory_bytes)
        before, most, found = _open_files(), 0, 0
        tracemalloc.start()
        for block in collect(paths, kind, 1, 0, memory_bytes):
            most = max(most, _open_files())
            found += len(block)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found == len(records)
        assert most <= before + 4
    # the names and slices of the runs are all that grows
    assert peaks[1] < peaks[0] + 300 * 1500
    assert peaks[0] < 20 * memory_bytes


def test_nothing_is_left_of_a_run_that_fails(tmp_path: Path) -> None:
    kind = KINDS[0]
    with pytest.raises(RuntimeError), new_run(tmp_path / "run", kind, hash_bounds(2), LITTLE) as run:
        run.add(np.arange(2000, dtype=np.uint64), np.arange(2000))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "other ranges", "other records", "empty"])
def test_another_file_is_refused(tmp_path: Path, damage: str) -> None:
    kind, ranges = KINDS[0], 3
    (path,) = spread(tmp_path, kind, [random_records(np.random.default_rng(2), kind, 100, 50)], ranges, 10**6)
    if damage in ("cut", "empty"):
        os.truncate(path, 0 if damage == "empty" else path.stat().st_size - 8)
    if damage == "other ranges":
        ranges = 7
    if damage == "other records":
        kind = KINDS[1]
    with pytest.raises(ValueError, match=r"run-000: no run of records of \d+ bytes in \d ranges"):
        list(collect([path], kind, ranges, 0, 10**6))


def test_ranges_hold_what_fits_in_memory() -> None:
    kind = KINDS[0]
    assert ranges_for(0, kind, 10**9) == ranges_for(1000, kind, 10**9) == 1
    few = ranges_for(10**9, kind, 10**8)
    assert 10**9 * kind.dtype.itemsize / few * shuffle._COPIES <= 10**8
    assert hash_bounds(1).tolist() == [] and hash_bounds(4, 16).tolist() == [4, 8, 12]
    assert hash_bounds(3)[-1] == np.uint64(-(-(2**65) // 3))


def _blocks(records: Records, sizes: list[int]) -> Iterator[Records]:
    start = 0
    for size in sizes:
        yield records[start : start + size]
        start += size


@pytest.mark.parametrize("seed", range(8))
def test_groups_are_whole_or_pieces_of_a_large_one(seed: int) -> None:
    generator = np.random.default_rng(seed)
    kind, most = KINDS[1], 12
    records = kind.sorted(random_records(generator, kind, 600, 40))
    cuts = np.sort(generator.integers(0, 601, size=20))
    sizes = np.diff([0, *cuts.tolist(), 600]).tolist()
    groups: list[list[int]] = []
    pieces = 0
    for group in grouped(_blocks(records, sizes), ("key", "more"), most):
        assert group.starts[0] == 0 and group.starts[-1] == len(group.records)
        for number, (start, stop) in enumerate(zip(group.starts[:-1], group.starts[1:], strict=True)):
            values = group.records["value"][start:stop].tolist()
            if number == 0 and group.continues:
                assert len(groups[-1]) > most  # a group is in pieces only if it is large
                groups[-1] += values
                pieces += 1
            else:
                groups.append(values)
    expected: dict[tuple[int, ...], list[int]] = {}
    for record in records:
        expected.setdefault(kind.key(record), []).append(int(record["value"]))
    assert groups == list(expected.values())
    assert pieces > 0
