"""A run directory with kept and dropped documents, as the stages before the tokenizer leave it."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.config import DataConfig
from data_prep.run.commit_records import Stage
from data_prep.run.directory import RunDirectory
from data_prep.run.documents import DOCUMENTS, VERDICTS
from data_prep.run.manifest import Manifest, freeze_manifest
from data_prep.signals.table import SIGNALS

_SYLLABLES = [*re.findall("..", "andealtiplanollamaquinoapunasalargoviento"), "cón", "Å", "雪", "снег", "12"]
WORDS = [a + b + c for a in _SYLLABLES for b in _SYLLABLES[::3] for c in ("", "s", "ción")]


def make_texts(seed: int, count: int) -> list[str]:
    """Texts of a few dozen words each, some with what trips encoders up."""
    source = random.Random(seed)
    odd = ["</s>", "a <s>struck</s> b", "x@example.org", "\n\n\t", "…。，", "<|reserved_0|>", "👩‍👧", "e\u0301"]
    return [
        " ".join(source.choice(odd if source.random() < 0.1 else WORDS) for _ in range(source.randint(1, 60)))
        for _ in range(count)
    ]


def make_run(
    folder: Path,
    sources: Mapping[str, Sequence[str]],
    dropped: Sequence[str] = (),
    spans: Mapping[str, list[tuple[str, int, int]]] | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Mapping[str, float] | None = None,
    documents_per_shard: int = 40,
    languages: Mapping[str, Sequence[str]] | None = None,
    metadata: Mapping[str, str] | None = None,
    more: Mapping[str, Mapping[str, Any]] | None = None,
    cuts: Mapping[str, list[tuple[int, int]]] | None = None,
) -> tuple[DataConfig, RunDirectory, Manifest]:
    """Write corpus, signals and verdicts of `sources` (name -> texts) and commit them.

    Args:
        dropped: ids that are not kept.
        spans: id -> redactions.
        languages: source -> language of each of its texts; Spanish when left out.
        metadata: id -> JSON.
        more: source -> its other settings, such as another kind.
        cuts: id -> ranges of bytes that are left out.
    """
    raw = folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    configured = []
    for name, texts in sources.items():
        shards = max(1, -(-len(texts) // documents_per_shard))
        for i in range(shards):
            (raw / f"{name}-{i}.jsonl").write_text('{"text": "x"}'.ljust(99) + "\n")  # a shard each
        weight = {"weight": weights[name]} if weights else {}
        paths = [str(raw / f"{name}-*.jsonl")]
        configured.append({"name": name, "kind": "jsonl", "paths": paths, **weight, **(more or {}).get(name, {})})
    config = DataConfig.model_validate(
        {"output": folder / "run", "sources": configured, "shard_bytes": 100, **(settings or {})}
    )
    run = RunDirectory(config.output)
    manifest = freeze_manifest(config, run)
    stage = Stage(run, "decide", 1, {}, "")
    for name, texts in sources.items():
        names = [shard.name for shard in manifest.shards if shard.source == name]
        for i, shard in enumerate(names):
            rows = slice(i * documents_per_shard, (i + 1) * documents_per_shard)
            spoken = (languages or {}).get(name, ["es"] * len(texts))[rows]
            write_shard(run, shard, name, texts[rows], dropped, spans or {}, spoken, metadata or {}, cuts or {})
            stage.commit(shard, [run.verdicts / f"{shard}.parquet"], {})
    return config, run, manifest


def write_shard(
    run: RunDirectory,
    shard: str,
    source: str,
    texts: Sequence[str],
    dropped: Sequence[str],
    spans: Mapping[str, list[tuple[str, int, int]]],
    languages: Sequence[str],
    metadata: Mapping[str, str],
    cuts: Mapping[str, list[tuple[int, int]]] = {},
) -> None:
    for folder in (run.corpus, run.signals, run.verdicts):
        folder.mkdir(parents=True, exist_ok=True)
    ids = [f"{shard}/{row:07d}" for row in range(len(texts))]
    told = [metadata.get(identity, "{}") for identity in ids]
    corpus = pa.table(
        {"id": ids, "text": texts, "source": [source] * len(ids), "url": ids, "metadata": told}, schema=DOCUMENTS
    )
    pq.write_table(corpus, run.corpus / f"{shard}.parquet", row_group_size=7)
    rows = [
        {
            "id": identity,
            "byte_count": len(text.encode()),
            "pii_spans": [{"kind": k, "start": a, "end": b} for k, a, b in spans.get(identity, [])],
        }
        for identity, text in zip(ids, texts, strict=True)
    ]
    columns = pa.schema([SIGNALS.field(name) for name in ("id", "byte_count", "pii_spans")])
    pq.write_table(pa.Table.from_pylist(rows, columns), run.signals / f"{shard}.parquet")
    verdicts = [
        {
            "id": identity,
            "source": source,
            "language": language,
            "kept": identity not in dropped,
            "reasons": ["gopher"] if identity in dropped else [],
            "duplicate_of": None,
            "cuts": [{"start": start, "end": end} for start, end in cuts.get(identity, [])],
        }
        for identity, language in zip(ids, languages, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(verdicts, VERDICTS), run.verdicts / f"{shard}.parquet")
