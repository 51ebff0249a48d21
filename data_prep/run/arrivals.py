"""New sources in a finished run: `altiplano data add`.

What was extracted and measured stays, and so do the tokenizer and the token files of every source of which the same
documents are kept. Duplicates are looked for in the whole corpus and every verdict is given again, because a new
document may be the copy of an old one; that one stays, see `data_prep/dedup/preference.py`. So the outputs are those of
a run that is made from nothing with the same configuration, byte for byte.

`commits/arrivals.json` says what the records on disk were made from: those with these `inputs` are as good as new ones
if the unit reads the same as before. For extraction and measuring that is known beforehand, for the tokenizer and the
token files when the verdicts are there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.config import DataConfig
from data_prep.run.commit_records import Record, Stage, read_records, remove_outputs
from data_prep.run.directory import RunDirectory
from data_prep.run.documents import read_columns, read_kept_digest
from data_prep.run.inputs import SourceFiles, find_inputs
from data_prep.run.manifest import (
    Manifest,
    divided,
    load_manifest,
    manifest_settings,
    refuse_changed_files,
    write_manifest,
)
from foundation.atomic_files import digest, whole_file, write_json
from foundation.configuration import first_change

TOKENIZER = "tokenizer"
"""Unit of the stage train-tokenizer."""
_MADE_AGAIN = ("report-tokenizer", "ledger", "decide", "dedup")
"""Stages that read the whole corpus, later ones first: a kill leaves no record without what it was made from."""
_KEPT = ("extract", "measure")
"""Stages whose outputs stay, with a record for each shard."""


@dataclass(frozen=True)
class Before:
    """The run as it was before the last arrival.

    Attributes:
        manifest, next_manifest: digests of its manifest, and of the one with the new sources.
        inputs: by stage, what its records were made from.
        read: by unit of the tokenizer and of the token files, digest of what it reads, see `_digests_of_what_is_read`.
    """

    manifest: str
    next_manifest: str
    inputs: Mapping[str, str]
    read: Mapping[str, str]


def add_sources(config: DataConfig, run: RunDirectory) -> bool:
    """Bring the new sources of a configuration into the manifest of a finished run, and remove the outputs of stages
    that read the whole corpus; all other stages then do what is missing. An interrupted call is continued by the next.

    Returns:
        Whether there was anything to add; otherwise it has been added already.

    Raises:
        ValueError: the run is not finished; a source that is there has changed; a new one does not arrive later.
        StaleOutputError: an input file has changed.
    """
    frozen = load_manifest(run)
    settings = manifest_settings(config)
    if first_change(frozen.settings, settings) is None:
        if _before(run) is None:
            raise ValueError(
                f"{run.root}: every source of the configuration is in this run already; list what is new as a source "
                f"of its own with `arrival: {_latest(frozen) + 1}`"
            )
        return False
    _refuse_other_settings(frozen, settings)
    _refuse_earlier_arrivals(frozen, config)
    _refuse_other_weights(frozen, config)
    refuse_changed_files(frozen, run)
    found = tuple(find_inputs(source, config.seed) for source in config.sources)
    _refuse_other_files(frozen, found)
    grown = divided(config, found, frozen)
    before = _before(run)
    if before is None or (before.manifest, before.next_manifest) != (frozen.digest, grown.digest):
        write_json(run.arrivals, asdict(_describe(run, frozen, grown)))
    if run.verdicts.is_dir():
        shutil.rmtree(run.verdicts_before, ignore_errors=True)
        os.rename(run.verdicts, run.verdicts_before)
    for stage in _MADE_AGAIN:
        remove_outputs(run, stage)
    write_manifest(grown, run)
    return True


def forget_changed(stage: Stage, manifest: Manifest) -> None:
    """Remove records and outputs of units that were made before the last arrival and read something else now.

    Args:
        stage: train-tokenizer or tokenize.
    """
    before = _before(stage.run)
    if before is None or stage.name not in before.inputs:
        return
    inputs = before.inputs[stage.name]

    def old_record(unit: str) -> Record | None:
        record = stage.record(unit)
        return record if record is not None and record.inputs == inputs else None

    units = [TOKENIZER] if stage.name == "train-tokenizer" else list(manifest.settings["sources"])
    old = {unit: record for unit in units if (record := old_record(unit)) is not None}
    now = _digests_of_what_is_read(stage.run, manifest) if old else {}
    for unit, record in old.items():
        # other processes with a share of the stage may have begun to do it again: theirs are no old records
        parts = [part for shard in manifest.shards if shard.source == unit and (part := old_record(shard.name))]
        if before.read.get(unit) == now[unit]:
            for part in parts:
                stage.up_to_date(part)
            print(f"{stage.name}: {unit} stays as it is: it is made from the same documents")
            continue
        for part in parts:
            (stage.folder / f"{part.unit}.json").unlink(missing_ok=True)
        for path in record.outputs:
            (stage.run.root / path).unlink(missing_ok=True)
        (stage.folder / f"{unit}.json").unlink(missing_ok=True)  # last: after a kill it says that this is not done yet


def report_changes(run: RunDirectory) -> None:
    """Say how many documents that were there have another verdict now, and list them in `changed_verdicts.jsonl`."""
    if not run.verdicts_before.is_dir():
        return
    documents, shards = 0, 0
    with whole_file(run.changed_verdicts) as path, open(path, "w", encoding="utf-8") as file:
        for old in sorted(run.verdicts_before.glob("*.parquet")):
            new = run.verdicts / old.name
            if read_kept_digest(old) == read_kept_digest(new):
                continue
            for row in _changes(old, new):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                documents += 1
            shards += 1
    shutil.rmtree(run.verdicts_before)
    if not documents:
        run.changed_verdicts.unlink()
        print("add: no document that was there has another verdict")
        return
    print(
        f"add: {documents:,} documents of {shards:,} shards that were there have another verdict or other cuts, see "
        f"{run.changed_verdicts}; the token files of their sources are new"
    )


def _changes(old: Path, new: Path) -> Iterator[dict[str, Any]]:
    """Yield the documents of a shard that are kept now and were not, or the other way, or are cut otherwise."""
    names = ("id", "kept", "reasons", "duplicate_of", "cuts")
    tables: list[pa.Table] = [read_columns(path, names) for path in (old, new)]
    for before, after in zip(*(table.to_pylist() for table in tables), strict=True):
        if (before["kept"], before["cuts"]) != (after["kept"], after["cuts"]):
            yield {
                "id": before["id"],
                "was_kept": before["kept"],
                "is_kept": after["kept"],
                "reasons": after["reasons"],
                "duplicate_of": after["duplicate_of"],
                "cut_bytes": [sum(cut["end"] - cut["start"] for cut in row["cuts"]) for row in (before, after)],
            }


def _before(run: RunDirectory) -> Before | None:
    try:
        return Before(**json.loads(run.arrivals.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{run.arrivals}: damaged ({error}); `--restart extract` makes the run from nothing") from None


def _latest(manifest: Manifest) -> int:
    return max(map(manifest.arrival, manifest.settings["sources"]))


def _refuse_other_settings(frozen: Manifest, settings: Mapping[str, Any]) -> None:
    """Refuse changes of what is there."""
    for name in frozen.settings["sources"]:
        if name not in settings["sources"]:
            raise ValueError(f"sources: {name} is in this run and not in the configuration; sources can only be added")
    there = {**settings, "sources": {name: settings["sources"][name] for name in frozen.settings["sources"]}}
    change = first_change(frozen.settings, there)
    if change is not None:
        name, was, now = change
        raise ValueError(f"{name}: is {now!r}, the run was made with {was!r}; `altiplano data add` only adds sources")


def _refuse_earlier_arrivals(frozen: Manifest, config: DataConfig) -> None:
    latest = _latest(frozen)
    for place, source in enumerate(config.sources):
        if source.name not in frozen.settings["sources"] and source.arrival <= latest:
            raise ValueError(
                f"sources.{place}.arrival: {source.arrival}; source {source.name} is added to a run whose last arrival "
                f"is {latest}: give it `arrival: {latest + 1}`"
            )
        if source.user_names and source.arrival > latest:
            raise ValueError(
                f"sources.{place}.user_names: sources with user names cannot be added, because all others would have "
                "to be measured again"
            )


def _refuse_other_weights(frozen: Manifest, config: DataConfig) -> None:
    """Refuse weights for some sources only: the mixture, which is written last, cannot have them."""
    has_weights = any(
        source.weight is not None for source in config.sources if source.name in frozen.settings["sources"]
    )
    for place, source in enumerate(config.sources):
        if source.name not in frozen.settings["sources"] and (source.weight is not None) != has_weights:
            fault = "missing; the sources that are there have weights" if has_weights else "the others have none"
            raise ValueError(f"sources.{place}.weight: {fault}: give all sources a weight in the mixture, or none")


def _refuse_other_files(frozen: Manifest, found: tuple[SourceFiles, ...]) -> None:
    """Refuse new files in the paths of a source that is there: a run from nothing would divide it otherwise."""
    known = {source.name: {file.path for file in source.files} for source in frozen.sources}
    for source in found:
        files = {file.path for file in source.files}
        new = sorted(files - known.get(source.name, files))
        if new:
            more = f" (and {len(new) - 1:,} more)" if len(new) > 1 else ""
            raise ValueError(
                f"{new[0]}: a new file{more} in the paths of source {source.name}, which is in this run already; put "
                f"what is new into a folder of its own, and list that as a source with `arrival: {_latest(frozen) + 1}`"
            )


def _describe(run: RunDirectory, frozen: Manifest, grown: Manifest) -> Before:
    """Describe a finished run.

    Raises:
        ValueError: it is not finished.
    """
    units_of: dict[str, Sequence[str]] = {
        **dict.fromkeys((*_KEPT, "decide"), frozen.shard_names),
        "train-tokenizer": [TOKENIZER],
        "tokenize": [source.name for source in frozen.sources],
    }
    inputs: dict[str, str] = {}
    for stage, units in units_of.items():
        records = read_records(run, stage)
        missing = [unit for unit in units if unit not in records]
        if missing:
            raise ValueError(f"{run.root}: {stage} {missing[0]} is missing; finish the run first: `altiplano data run`")
        if stage != "decide":  # which is done again, and must have been done
            inputs[stage] = records[units[0]].inputs
    return Before(frozen.digest, grown.digest, inputs, _digests_of_what_is_read(run, frozen))


def _digests_of_what_is_read(run: RunDirectory, manifest: Manifest) -> dict[str, str]:
    """Return, by unit of the tokenizer and of the token files, a digest of the documents that it reads: their texts,
    personal data, which are kept, and cuts. The token files also depend on the tokenizer."""
    extracted, measured = read_records(run, "extract"), read_records(run, "measure")
    by_source: dict[str, list[object]] = {name: [] for name in manifest.settings["sources"]}
    for shard in manifest.shards:
        kept = read_kept_digest(run.verdicts / f"{shard.name}.parquet")
        read = [_checksums(records[shard.name]) for records in (extracted, measured)]
        by_source[shard.source].append([shard.name, *read, kept])
    learnt = {name: shards for name, shards in by_source.items() if not manifest.arrival(name)}
    tokenizer = run.commits / "train-tokenizer" / f"{TOKENIZER}.json"
    written = json.loads(tokenizer.read_text(encoding="utf-8"))["outputs"] if tokenizer.exists() else None
    return {
        TOKENIZER: digest(learnt),
        **{name: digest([shards, written]) for name, shards in by_source.items()},
    }


def _checksums(record: Record) -> list[str]:
    return [checksum for path, checksum in sorted(record.checksums.items()) if path.endswith(".parquet")]
