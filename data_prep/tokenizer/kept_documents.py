"""The documents that every earlier stage has agreed to keep, as they will be trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.edits import edit_marked, no_loss_of
from data_prep.shards import RunDirectory
from data_prep.sources.reading import NO_LOSS

_BATCH_ROWS = 256


@dataclass(frozen=True)
class KeptDocument:
    """One document, edited.

    Attributes:
        language: ISO 639 code.
        no_loss: half-open ranges in bytes of the text that are read but not learnt, see `data_prep.edits`.
    """

    id: str
    text: str
    language: str
    no_loss: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class KeptSizes:
    """Languages and bytes (before redaction) of the kept documents of a shard, in its order."""

    languages: tuple[str, ...]
    byte_counts: npt.NDArray[np.int64]

    def by_language(self) -> dict[str, int]:
        """Language -> bytes of its kept documents."""
        sums: dict[str, int] = {}
        for language, size in zip(self.languages, self.byte_counts.tolist(), strict=True):
            sums[language] = sums.get(language, 0) + size
        return sums


def read_kept_sizes(run: RunDirectory, shard: str) -> KeptSizes:
    """What a shard keeps, without reading its text."""
    verdicts, signals = _aligned(run, shard, ["byte_count"])
    kept = verdicts["kept"].to_numpy()
    languages = verdicts["language"].filter(verdicts["kept"]).to_pylist()
    return KeptSizes(tuple(languages), signals["byte_count"].to_numpy()[kept])


def read_kept(
    run: RunDirectory, shard: str, chosen: Callable[[str, str], bool] = lambda identity, language: True
) -> Iterator[KeptDocument]:
    """The kept documents of a shard in its order, or those that are `chosen` by id and language; a few held at a time.

    Raises:
        ValueError: text, signals and verdicts of the shard are not of the same documents.
    """
    verdicts, signals = _aligned(run, shard, ["pii_spans"])
    wanted = np.array(
        [
            kept and chosen(identity, language)
            for identity, language, kept in zip(
                *(verdicts[name].to_pylist() for name in ("id", "language", "kept")), strict=True
            )
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
                for batch in file.iter_batches(_BATCH_ROWS, [group], ["id", "text", "metadata"]):
                    mask = wanted[start : start + len(batch)]
                    taken = batch.filter(pa.array(mask))
                    spans = signals["pii_spans"].slice(start, len(batch)).filter(pa.array(mask))
                    cuts = verdicts["cuts"].slice(start, len(batch)).filter(pa.array(mask))
                    identities = verdicts["id"].slice(start, len(batch)).filter(pa.array(mask))
                    languages = verdicts["language"].slice(start, len(batch)).filter(pa.array(mask))
                    if not taken["id"].equals(identities.combine_chunks()):
                        raise ValueError(f"{corpus}: its ids are not those of {run.verdicts / corpus.name}")
                    for identity, text, metadata, language, found, ranges in zip(
                        *(taken[name].to_pylist() for name in ("id", "text", "metadata")),
                        *(column.to_pylist() for column in (languages, spans, cuts)),
                        strict=True,
                    ):
                        personal = [(span["kind"], span["start"], span["end"]) for span in found]
                        left_out = [(cut["start"], cut["end"]) for cut in ranges]
                        edited, no_loss = edit_marked(text, personal, left_out, no_loss_of(metadata, text))
                        yield KeptDocument(identity, edited, language, no_loss)
                    start += len(batch)
            first += rows


def has_no_loss(run: RunDirectory, shard: str) -> bool:
    """Whether some document of the shard has parts that are read but not learnt."""
    with pq.ParquetFile(run.corpus / f"{shard}.parquet") as file:
        return any(
            pc.any(pc.match_substring(batch["metadata"], f'"{NO_LOSS}"')).as_py()
            for batch in file.iter_batches(columns=["metadata"])
        )


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
    verdicts = _read(verdicts_path, ["id", "language", "kept", "cuts"])
    measured = _read(signals_path, ["id", *signals])
    if not verdicts["id"].equals(measured["id"]):
        raise ValueError(f"{verdicts_path}: its ids are not those of {signals_path}; run `data_prep decide` again")
    return verdicts.combine_chunks(), measured.combine_chunks()


def _read(path: Path, columns: list[str]) -> pa.Table:
    return pq.read_table(path, columns=columns)
