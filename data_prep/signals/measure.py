"""The measure stage: reads each document once and writes all of its signals."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.compile_kernels import MEASURE, compile_kernels
from data_prep.config import DataConfig, FingerprintConfig
from data_prep.run.commit_records import Stage, committed_digest
from data_prep.run.directory import RunDirectory
from data_prep.run.documents import text_bytes
from data_prep.run.executors import run_units
from data_prep.run.manifest import load_manifest, manifest_at
from data_prep.signals.bad_words import list_digests as word_digests
from data_prep.signals.evaluations import set_digests
from data_prep.signals.language import LanguageIdentifier, installed_model_path
from data_prep.signals.perplexity import model_files
from data_prep.signals.pii.find import KINDS
from data_prep.signals.quality import QualityClassifier
from data_prep.signals.scores import PREFIX
from data_prep.signals.segmentation import MODELS, model_path
from data_prep.signals.table import MEASUREMENTS, SIGNALS
from data_prep.signals.texts import Instruments, Texts
from data_prep.signals.urls import digests as list_digests
from foundation.atomic_files import sha256_file

VERSION = 14

_EXTRACTED = "extract"
_REPEATING = [
    "language",
    "line_languages.list.element",
    "pii_spans.list.element.kind",
    "evaluation_matches.list.element.set",
]
"""Columns with dictionary encoding; building dictionaries of hashes and shares would take longer than the rest of
writing."""


def measure_stage(config: DataConfig, run: RunDirectory) -> Stage:
    """Return the stage with what signals depend on: settings, contents of models, and the Unicode version of this
    Python."""
    shards = load_manifest(run).shard_names
    model = _model_path(config)
    settings = {
        "language": {"model": sha256_file(model), "lines": config.language.lines},
        "quality": _quality_settings(config),
        "perplexity": {
            language: dict(zip(("tokenizer", "model"), map(sha256_file, model_files(language, files)), strict=True))
            for language, files in config.perplexity.items()
        },
        "urls": list_digests(config.urls),
        "bad_words": word_digests(config.bad_words),
        "user_names": _sources_with_user_names(config),
        "scores": {name: setting.field for name, setting in config.scores.items()},
        "decontamination": set_digests(config.decontamination),
        "fingerprints": config.fingerprints.model_dump(mode="json"),
        "segmentation": {language: sha256_file(model_path(language)) for language in MODELS},
        "unicode": unicodedata.unidata_version,
    }
    return Stage(run, "measure", VERSION, settings, committed_digest(run, _EXTRACTED, shards))


def measure(config: DataConfig, run: RunDirectory) -> None:
    """Write `signals/<shard>.parquet` for each shard of the corpus, with the columns of `table.SIGNALS`.

    Raises:
        FastTextModelError: the model of languages, or that of quality, is missing or damaged.
        PerplexityError: a model of perplexity is missing or damaged, or KenLM is not installed.
        StaleOutputError: signals on disk are from other settings or another corpus.
        ValueError: a shard of the corpus is damaged.
    """
    stage = measure_stage(config, run)
    names = load_manifest(run).shard_names
    if any(not stage.is_done(name) for name in names):
        Instruments.of(config)  # a damaged model fails here, before work starts
        warm_up(config)
    work = partial(measure_shard, stage=stage, config=config)
    run_units(work, names, config.workers, "measure", stage)
    _refuse_missing_scores(config, stage)


def _refuse_missing_scores(config: DataConfig, stage: Stage) -> None:
    """Refuse a score that no document has: then its field has another name. Report one that some do not have."""
    counts: Counter[str] = Counter()
    for record in stage.records().values():
        counts.update(record.counts)
    total = counts["documents"]
    for name, setting in config.scores.items():
        missing = total - counts[PREFIX + name]
        if total and missing == total:
            raise ValueError(
                f"scores.{name}.field: none of the {total:,} documents has a number {setting.field!r} in its metadata, "
                "which `altiplano data why` shows; correct the name, and run with `--restart measure`"
            )
        if missing:
            print(f"measure: scores.{name}: {missing:,} of {total:,} documents have no number {setting.field!r}")


def warm_up(config: DataConfig) -> None:
    """Compile the kernels, so that workers load them from numba's cache."""
    asked = ("evaluations", config.decontamination), ("bad words", config.bad_words)
    compile_kernels((*MEASURE, *(name for name, setting in asked if setting)))


def measure_shard(name: str, stage: Stage, config: DataConfig) -> None:
    """Measure one shard, in the order of its documents."""
    corpus = stage.run.corpus / f"{name}.parquet"
    signals = stage.run.signals / f"{name}.parquet"
    counts: Counter[str] = Counter(
        {"documents": 0, "bytes": 0, "sampled_shingles": 0, **{f"pii:{kind}": 0 for kind in KINDS}}
    )
    source = manifest_at(stage.run.manifest, stage.inputs).shard(name).source
    instruments = replace(_instruments(config), finds_user_names=source in _sources_with_user_names(config))
    digests: dict[Path, str] = {}
    with (
        stage.new_file(digests)(signals) as partial_file,
        pq.ParquetWriter(partial_file, SIGNALS, compression="zstd", use_dictionary=_REPEATING) as writer,
    ):
        for documents in _read_documents(corpus, ("id", "text", "url", *(("metadata",) if config.scores else ()))):
            measured = measure_documents(documents, config.fingerprints, instruments)
            counts["documents"] += len(measured)
            counts["bytes"] += int(np.sum(measured.column("byte_count").to_numpy()))
            counts["sampled_shingles"] += len(pc.list_flatten(measured.column("sampled_shingles")))
            spans = pc.list_flatten(measured.column("pii_spans"))
            counts.update(f"pii:{kind}" for kind in pc.struct_field(spans, "kind").to_pylist())
            if config.scores:
                rows = measured.column("scores").to_pylist()
                counts.update(f"{PREFIX}{name}" for row in rows for name, _ in row)
            writer.write_table(measured)
    stage.commit(name, [signals], counts, digests=digests)


def measure_documents(documents: pa.Table, fingerprints: FingerprintConfig, instruments: Instruments) -> pa.Table:
    """Return the signals (`table.SIGNALS`) of a table, row by row, with the columns `id`, `text`, where addresses are
    compared with lists `url`, and where scores are read `metadata`."""
    texts = documents.column("text").combine_chunks()
    if isinstance(texts, pa.ChunkedArray):  # older pyarrow: no chunk at all
        texts = pa.concat_arrays(texts.chunks) if texts.num_chunks else pa.array([], pa.large_string())
    data, offsets = text_bytes(texts)
    urls = documents.column("url").to_pylist() if instruments.urls else ()
    metadata = documents.column("metadata").to_pylist() if instruments.scores else ()
    group = Texts(data, offsets, fingerprints, instruments, urls, metadata)
    columns: dict[str, Any] = {"id": documents.column("id")}
    for measurement in MEASUREMENTS:
        measured = measurement.measure(group)
        for (name, type_), column in zip(measurement.columns.items(), measured, strict=True):
            columns[name] = _as_array(column, type_, len(group))
    return pa.table(columns, schema=SIGNALS)


def _read_documents(path: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the documents of a shard, one row group at a time."""
    try:
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not a readable document shard ({error}); `--restart extract` writes it again"
        ) from error


def _as_array(column: Any, type_: pa.DataType, length: int) -> Any:
    if column is None:
        return pa.nulls(length, type_)
    return column if isinstance(column, (pa.Array, pa.ChunkedArray)) else pa.array(column, type=type_)


def _sources_with_user_names(config: DataConfig) -> list[str]:
    return [source.name for source in config.sources if source.user_names]


def _quality_settings(config: DataConfig) -> dict[str, str] | None:
    path, label = config.quality.model, config.quality.label
    if path is None:
        return None
    if not path.expanduser().is_file():
        QualityClassifier(path, label)  # which raises, naming the file
    return {"model": sha256_file(path.expanduser()), "label": label}


def _model_path(config: DataConfig) -> Path:
    if config.language.model is None:
        return installed_model_path()
    path = config.language.model.expanduser()
    return path if path.is_file() else LanguageIdentifier(path).path  # which raises, naming the file


_loaded: dict[str, Instruments] = {}


def _instruments(config: DataConfig) -> Instruments:
    """Load the models once in each process."""
    models = config.quality, config.perplexity, config.urls, config.decontamination, config.bad_words, config.scores
    key = repr((config.language.model, config.language.lines, *models))
    if key not in _loaded:
        _loaded[key] = Instruments.of(config)
    return _loaded[key]
