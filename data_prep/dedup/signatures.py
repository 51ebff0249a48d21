"""Signals of a shard that deduplication needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.config import DataConfig
from data_prep.dedup.records import SIGNED
from data_prep.rules import rules_of_source
from data_prep.rules.decide import failures, read_signals
from data_prep.run.directory import RunDirectory
from data_prep.run.documents import read_columns
from data_prep.run.manifest import Shard
from data_prep.run.shuffle import Records


def read_hashes(config: DataConfig, run: RunDirectory, shard: Shard) -> tuple[Records, npt.NDArray[np.uint64]]:
    """Return records of `SIGNED`, and the 128-bit hashes of the documents, `uint64[documents, 2]`.

    Raises:
        ValueError: the signals cannot be read; so do the other functions.
    """
    rules = rules_of_source(config, shard.source)
    measured = read_signals(run.signals / f"{shard.name}.parquet", rules, ("shingle_count",))
    signed = np.empty(len(measured["id"]), dtype=SIGNED)
    signed["fails_rules"] = failures(measured, rules).any(axis=1)
    signed["arrival"] = next(source.arrival for source in config.sources if source.name == shard.source)
    signed["shingle_count"] = measured["shingle_count"]
    hashes = _read_signals(run, shard, ["exact_hash"]).column("exact_hash")
    return signed, _fixed_bytes(hashes).view("<u8").reshape(-1, 2).astype(np.uint64)


def read_minima(
    run: RunDirectory, shard: Shard, permutations: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint32]]:
    """Return which documents have a signature (those with shingles), and the signatures of these,
    `uint32[documents with a signature, permutations]`."""
    lists = _read_signals(run, shard, ["minhash"]).column("minhash")
    return pc.list_value_length(lists).to_numpy() > 0, _flat(lists).to_numpy().reshape(-1, permutations)


def read_samples(run: RunDirectory, shard: Shard) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return the sampled shingles of all documents, ascending within each, and their number by document."""
    lists = _read_signals(run, shard, ["sampled_shingles"]).column("sampled_shingles")
    return _flat(lists).to_numpy().astype(np.uint64), pc.list_value_length(lists).to_numpy().astype(np.int64)


def _read_signals(run: RunDirectory, shard: Shard, names: Sequence[str]) -> pa.Table:
    path = run.signals / f"{shard.name}.parquet"
    try:
        return read_columns(path, names).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not a readable file of signals ({error}); `--restart measure` writes it again"
        ) from error


def _flat(column: pa.ChunkedArray) -> pa.Array:
    flat = pc.list_flatten(column)
    return flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat


def _fixed_bytes(column: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Return the bytes of a column of fixed width, concatenated."""
    width = column.type.byte_width
    parts = [
        np.frombuffer(chunk.buffers()[1], dtype=np.uint8)[chunk.offset * width : (chunk.offset + len(chunk)) * width]
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate([np.empty(0, dtype=np.uint8), *parts])
