"""The documents that every earlier stage has agreed to keep, as they will be trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.edits import edit
from data_prep.shards import RunDirectory

_BATCH_ROWS = 256


@dataclass(frozen=True)
class KeptDocument:
    """One document, edited."""

    id: str
    text: str


@dataclass(frozen=True)
class KeptSizes:
    """Ids and bytes (before redaction) of the kept documents of a shard, in its order."""

    ids: tuple[str, ...]
    byte_counts: npt.NDArray[np.int64]


def read_kept_sizes(run: RunDirectory, shard: str) -> KeptSizes:
    """What a shard keeps, without reading its text."""
    verdicts, signals = _aligned(run, shard, ["byte_count"])
    kept = verdicts["kept"].to_numpy()
    ids = verdicts["id"].filter(verdicts["kept"]).to_pylist()
    return KeptSizes(tuple(ids), signals["byte_count"].to_numpy()[kept])


def read_kept(
    run: RunDirectory, shard: str, chosen: Callable[[str], bool] = lambda identity: True
) -> Iterator[KeptDocument]:
    """The kept documents of a shard in its order, or those of them whose id is `chosen`; a few held at a time.

    Raises:
        ValueError: text, signals and verdicts of the shard are not of the same documents.
    """
    verdicts, signals = _aligned(run, shard, ["pii_spans"])
    wanted = np.array(
        [
            kept and chosen(identity)
            for identity, kept in zip(verdicts["id"].to_pylist(), verdicts["kept"].to_pylist(), strict=True)
        ],
        bool,
    )
    corpus = run.corpus / f"{shard}.parquet"
    first = 0
    with pq.ParquetFile(corpus) as file:
        if file.metadata.num_rows != len(wanted):
            raise ValueError(
                f"{corpus}: {file.metadata.num_rows} documents, but {len(wanted)} verdicts in "
                f"{run.verdicts / corpus.name}; run `python -m data_prep decide` again"
            )
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if wanted[first : first + rows].any():
                start = first
                for batch in file.iter_batches(_BATCH_ROWS, [group], ["id", "text"]):
                    mask = wanted[start : start + len(batch)]
                    taken = batch.filter(pa.array(mask))
                    spans = signals["pii_spans"].slice(start, len(batch)).filter(pa.array(mask))
                    cuts = verdicts["cuts"].slice(start, len(batch)).filter(pa.array(mask))
                    identities = verdicts["id"].slice(start, len(batch)).filter(pa.array(mask))
                    if not taken["id"].equals(identities.combine_chunks()):
                        raise ValueError(f"{corpus}: its ids are not those of {run.verdicts / corpus.name}")
                    for identity, text, found, ranges in zip(
                        taken["id"].to_pylist(),
                        taken["text"].to_pylist(),
                        spans.to_pylist(),
                        cuts.to_pylist(),
                        strict=True,
                    ):
                        personal = [(span["kind"], span["start"], span["end"]) for span in found]
                        left_out = [(cut["start"], cut["end"]) for cut in ranges]
                        yield KeptDocument(identity, edit(text, personal, left_out))
                    start += len(batch)
            first += rows


def id_fraction(seed: int, purpose: str, identity: str) -> float:
    """A number in [0, 1) that depends on seed, purpose and document alone: the same for any order of work."""
    hashed = hashlib.blake2b(f"{seed}/{purpose}/{identity}".encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "little") / 2**64


def mixture_weights(names: Sequence[str], given: Sequence[float | None], sizes: Sequence[int]) -> tuple[float, ...]:
    """Weights of sources that have something: the configured ones, or else their sizes.

    Raises:
        ValueError: some sources have a configured weight and some have not.
    """
    configured = [weight for weight in given if weight is not None]
    if not configured:
        return tuple(float(size) for size in sizes)
    if len(configured) < len(given):
        without = [name for name, weight in zip(names, given, strict=True) if weight is None]
        raise ValueError(
            f"sources: weight is given for some sources and not for {', '.join(without)}; give it for all of them, "
            "or for none, and every source counts by its size"
        )
    return tuple(configured)


def _aligned(run: RunDirectory, shard: str, signals: list[str]) -> tuple[pa.Table, pa.Table]:
    verdicts_path, signals_path = run.verdicts / f"{shard}.parquet", run.signals / f"{shard}.parquet"
    verdicts = _read(verdicts_path, ["id", "kept", "cuts"])
    measured = _read(signals_path, ["id", *signals])
    if not verdicts["id"].equals(measured["id"]):
        raise ValueError(f"{verdicts_path}: its ids are not those of {signals_path}; run `data_prep decide` again")
    return verdicts.combine_chunks(), measured.combine_chunks()


def _read(path: Path, columns: list[str]) -> pa.Table:
    return pq.read_table(path, columns=columns)
