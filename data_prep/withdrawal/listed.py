"""The list of withdrawn documents, `withdrawn` in the configuration: JSON lines, of which only `id` counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.config import DataConfig
from data_prep.run.directory import RunDirectory
from data_prep.run.documents import read_columns
from data_prep.run.manifest import Manifest
from foundation.atomic_files import write_text
from foundation.progress import Progress

NAMED = "named"
"""Why a document is on the list: a person asked for it."""
_COPIES = {"exact": "exact copy of", "near": "near copy of"}
_CONTAINS = "contained"


@dataclass(frozen=True)
class Entry:
    """Line of the list.

    Attributes:
        why: `named`, or of which named document it is the copy.
        since: when it was put on the list, UTC.
    """

    id: str
    url: str | None
    why: str
    note: str
    since: str


@dataclass(frozen=True)
class Found:
    """Documents that are to be withdrawn.

    Attributes:
        entries: the named documents and the copies that are kept in their place; none twice.
        dropped: of these, those that are in no token file, because a rule or a copy excludes them.
        containing: kept documents with most of the text of a named one, and the named one; they stay.
    """

    entries: Sequence[Entry]
    dropped: frozenset[str]
    containing: Mapping[str, str]


def read_list(path: Path | None, manifest: Manifest, run: RunDirectory) -> dict[str, list[str]]:
    """Read the ids on the list, by source.

    Raises:
        ValueError: the list is missing, a line is not an entry, or there is no such document; names the line.
    """
    found: dict[str, list[str]] = {name: [] for name in manifest.settings["sources"]}
    if path is None:
        return found
    refuse_missing_list(path)
    rows: dict[str, int] = {}
    known: set[str] = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            identity = json.loads(line)["id"]
            shard, _, row = identity.rpartition("/")
            if shard not in rows:
                rows[shard] = _row_count(run, manifest, shard)
            if not 0 <= int(row) < rows[shard] or identity != f"{shard}/{int(row):07d}":
                raise ValueError(f"no document {identity}; {shard} has {rows[shard]:,}, written as {shard}/0000000")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'{path}:{number}: {error}; each line is JSON such as {{"id": "{manifest.shard_names[0]}/0000012"}}'
            ) from None
        if identity not in known:
            known.add(identity)
            found[shard.rpartition("-")[0]].append(identity)
    return found


def refuse_missing_list(path: Path) -> None:
    """Raise ValueError if there is no list, where the configuration names one."""
    if not path.is_file():
        raise ValueError(f"withdrawn: {path}: no such file; `altiplano data remove` makes it, and an empty one will do")


def _row_count(run: RunDirectory, manifest: Manifest, shard: str) -> int:
    manifest.position(shard)
    path = run.corpus / f"{shard}.parquet"
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    return int(pq.read_metadata(path).num_rows)


def find_documents(run: RunDirectory, manifest: Manifest, named: Sequence[str], note: str) -> Found:
    """Find documents by their ids or URLs, and the copies that were kept in their place.

    Raises:
        ValueError: no document has one of these ids or URLs.
    """
    ids = _ids_of(run, manifest, named)
    since = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    removals = pq.read_table(run.dedup / "removals", filters=[("id", "in", sorted(ids))]).to_pylist()
    copies = {row["duplicate_of"]: f"{_COPIES[row['kind']]} {row['id']}" for row in removals if row["kind"] in _COPIES}
    containing = {row["duplicate_of"]: row["id"] for row in removals if row["kind"] == _CONTAINS}
    why = {**copies, **dict.fromkeys(ids, NAMED)}
    rows = _rows_of(run, why)
    entries = [Entry(identity, rows[identity][0], why[identity], note, since) for identity in sorted(why)]
    dropped = frozenset(identity for identity, (_, is_kept) in rows.items() if not is_kept)
    return Found(entries, dropped, {kept: held for kept, held in containing.items() if kept not in why})


def _ids_of(run: RunDirectory, manifest: Manifest, named: Sequence[str]) -> set[str]:
    """Ids of documents that are named by id or URL."""
    shards = set(manifest.shard_names)
    found, urls = set(), set()
    for name in named:
        shard, _, row = name.rpartition("/")
        if shard in shards and row.isdecimal():
            if int(row) >= (count := _row_count(run, manifest, shard)):
                raise ValueError(f"{name}: the shard has {count:,} documents, rows count from 0")
            found.add(f"{shard}/{int(row):07d}")
        else:
            urls.add(name)
    if not urls:
        return found
    values, seen = pa.array(sorted(urls), pa.string()), set()
    with Progress("look for the documents", len(manifest.shards), "shards") as progress:
        for shard in manifest.shard_names:
            table = read_columns(run.corpus / f"{shard}.parquet", ("id", "url"))
            for row in table.filter(pc.is_in(table["url"], values)).to_pylist():
                found.add(row["id"])
                seen.add(row["url"])
            progress.advance()
    if missing := sorted(urls - seen):
        more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        raise ValueError(
            f"{missing[0]}{more}: no document has this id or URL; ids are such as {manifest.shard_names[0]}/0000012, "
            "and nothing was taken out"
        )
    return found


def _rows_of(run: RunDirectory, ids: Mapping[str, str]) -> dict[str, tuple[str | None, bool]]:
    """URL of each document, and whether it is kept."""
    by_shard: dict[str, list[str]] = {}
    for identity in ids:
        by_shard.setdefault(identity.rpartition("/")[0], []).append(identity)
    found: dict[str, tuple[str | None, bool]] = {}
    for shard, own in by_shard.items():
        urls = read_columns(run.corpus / f"{shard}.parquet", ("url",))["url"]
        kept = read_columns(run.verdicts / f"{shard}.parquet", ("kept",))["kept"]
        for identity in own:
            row = int(identity.rpartition("/")[2])
            found[identity] = urls[row].as_py(), kept[row].as_py()
    return found


def put_on_list(config: DataConfig, run: RunDirectory, manifest: Manifest, found: Found) -> int:
    """Add documents to the list, which is made if it is not there; return how many were not on it before.

    Raises:
        ValueError: the configuration names no list, or the list is faulty.
    """
    path = config.withdrawn
    if path is None:
        raise ValueError(
            "withdrawn: missing; name the list of withdrawn documents in the configuration, such as `withdrawn: "
            "withdrawn.jsonl`, so that a run from nothing leaves them out as well"
        )
    if not path.is_file():
        write_text(path, "")
    known = {identity for ids in read_list(path, manifest, run).values() for identity in ids}
    new = [entry for entry in found.entries if entry.id not in known]
    before = path.read_text(encoding="utf-8")
    lines = "".join(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in new)
    if new:
        write_text(path, before + ("\n" if before and not before.endswith("\n") else "") + lines)
    return len(new)
