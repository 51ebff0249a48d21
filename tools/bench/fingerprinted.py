"""A run of some texts that has the signals which deduplication needs, and no others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.config import DataConfig
from data_prep.run.commit_records import Stage
from data_prep.run.directory import RunDirectory
from data_prep.run.documents import DOCUMENTS, text_bytes
from data_prep.run.manifest import freeze_manifest, load_manifest
from data_prep.signals.fingerprints import exact_hash, fingerprint_text
from data_prep.signals.table import SIGNALS

SIGNALS_OF_DEDUP = pa.schema(
    [
        SIGNALS.field(name)
        for name in (
            "id",
            "exact_hash",
            "shingle_count",
            "minhash",
            "sampled_shingles",
            "language",
            "language_probability",
        )
    ]
)

_LINE = "{}\n"
"""Content of each raw file, which is a shard of its own."""


def frozen_run(folder: Path, shards: int, **settings: Any) -> tuple[DataConfig, RunDirectory]:
    """Freeze a source `texts` of so many shards, whose only rule is the one of `language_probability`.

    Args:
        settings: more of the configuration.
    """
    raw = folder / "raw"
    raw.mkdir(parents=True)
    for shard in range(shards):
        (raw / f"{shard:05d}.jsonl").write_text(_LINE, encoding="utf-8")
    source = {"name": "texts", "kind": "jsonl", "paths": [str(raw)], "rules": ["language"]}
    base = {"output": folder / "run", "shard_bytes": len(_LINE), "workers": 1, "sources": [source], **settings}
    config = DataConfig.model_validate(base)
    run = RunDirectory(config.output)
    freeze_manifest(config, run)
    return config, run


def write_shard(run: RunDirectory, name: str, texts: Sequence[str], signals: dict[str, Any]) -> None:
    """Write a shard of texts with their signals, columns of `SIGNALS_OF_DEDUP` but `id` and `language`, and commit it
    as measured."""
    ids = [f"{name}/{row:07d}" for row in range(len(texts))]
    more = {"source": ["texts"] * len(ids), "url": [""] * len(ids), "metadata": ["{}"] * len(ids)}
    run.corpus.mkdir(exist_ok=True)
    run.signals.mkdir(exist_ok=True)
    pq.write_table(pa.table({"id": ids, "text": texts, **more}, schema=DOCUMENTS), run.corpus / f"{name}.parquet")
    table = pa.table({"id": ids, **signals, "language": ["en"] * len(ids)}).select(SIGNALS_OF_DEDUP.names)
    path = run.signals / f"{name}.parquet"
    pq.write_table(table.cast(SIGNALS_OF_DEDUP), path)
    samples = int(pc.sum(pc.list_value_length(table.column("sampled_shingles"))).as_py() or 0)
    stage = Stage(run, "measure", 1, {}, "")
    stage.commit(name, [path], {"documents": len(ids), "sampled_shingles": samples})


def measure_texts(config: DataConfig, run: RunDirectory, texts: Sequence[str], fails: Collection[int] = ()) -> None:
    """Divide texts among the shards of a run, and write their signals.

    Args:
        fails: numbers of the texts that fail their rules.
    """
    shards = load_manifest(run).shard_names
    bounds = np.linspace(0, len(texts), len(shards) + 1).astype(int).tolist()
    for name, start, stop in zip(shards, bounds, bounds[1:], strict=False):
        mine = texts[start:stop]
        data, offsets = text_bytes(pa.array(mine, pa.large_string()))
        found = fingerprint_text(data, offsets, config.fingerprints)
        sizes = np.where(found.counts > 0, config.fingerprints.permutations, 0)
        write_shard(
            run,
            name,
            mine,
            {
                "exact_hash": pa.array([exact_hash(text.encode()) for text in mine], pa.binary(16)),
                "shingle_count": found.counts,
                "minhash": _lists(found.minima[found.counts > 0].ravel(), sizes),
                "sampled_shingles": _lists(found.samples, np.diff(found.sample_bounds)),
                "language_probability": [0.0 if number in fails else 1.0 for number in range(start, stop)],
            },
        )


def _lists(values: Iterable[Any], sizes: Any) -> pa.ListArray:
    return pa.ListArray.from_arrays(np.cumsum([0, *sizes]).astype(np.int32), pa.array(values))
