"""The plan of a crawl: which captures are fetched, divided into parts. It is frozen, as the input of a run is.

crawl.json        settings, and what the plan has
plan.parquet      captures in the order of the archives, each with the number of its part
index/            what the look-ups have found, and files of the index
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.crawl.captures import CAPTURES, BadLineError, Capture, as_table, from_table, select
from data_prep.crawl.config import CrawlConfig
from data_prep.crawl.index import Lookup, Sites, lookups
from data_prep.crawl.polite_client import CrawlError, NotThereError, PoliteClient
from data_prep.crawl.state import BEGUN, PLAN
from data_prep.domains import suffix_digest
from data_prep.signals.urls import digests
from foundation.atomic_files import digest, whole_file, write_json
from foundation.configuration import first_change
from foundation.progress import Progress

VERSION = 1
_PART_BYTES = 64_000_000
"""Bytes of archives in a part, the unit of resuming."""
_PART_CAPTURES = 4_000
_BAD_LINES = b"bad_lines"
_SHOWN = 3


@dataclass(frozen=True)
class Plan:
    """What is fetched.

    Attributes:
        captures: rows of `CAPTURES` and the column `part`; of whole files: none.
        files: paths of whole files at the server.
        left_out: number of captures that are not fetched, by reason.
    """

    captures: pa.Table
    files: tuple[str, ...]
    left_out: Mapping[str, int]
    digest: str

    @property
    def parts(self) -> int:
        if self.files:
            return len(self.files)
        return int(self.captures["part"][-1].as_py()) + 1 if len(self.captures) else 0

    def part(self, number: int) -> list[Capture]:
        """Return the captures of a part."""
        numbers = self.captures["part"].to_numpy()
        start, stop = np.searchsorted(numbers, (number, number + 1)).tolist()
        return list(from_table(self.captures.select(CAPTURES.names).slice(start, stop - start)))


def settings_of(config: CrawlConfig) -> dict[str, Any]:
    """Return the settings that decide what is fetched, with the contents of lists.

    Raises:
        ValueError: a list cannot be read.
    """
    settings = config.model_dump(mode="json", exclude={"output", "connections", "sites", "domains", "urls"})
    settings["version"] = VERSION
    settings["sites"] = digest([entry.decode("utf-8", "replace") for entry in Sites(config).entries])
    settings["urls"] = {"lists": digests(config.urls), "pages_per_domain": config.urls.pages_per_domain}
    if config.urls.pages_per_domain is not None:
        settings["urls"]["suffixes"] = suffix_digest()
    return settings


def freeze_plan(config: CrawlConfig, client: PoliteClient) -> Plan:
    """Look the captures up and divide them; on later calls, load the plan.

    Raises:
        ValueError: the folder has another crawl, or the index has nothing to fetch.
        CrawlError: a server cannot be reached.
    """
    root = config.output
    settings = settings_of(config)
    if (root / PLAN).is_file():
        return _load(root, settings)
    begun = root / BEGUN
    if begun.is_file():
        _refuse_other(root, json.loads(begun.read_text(encoding="utf-8")), settings)
    else:
        write_json(begun, settings)
    plan = _of_captures(config, client) if config.files is None else _of_files(config, client)
    if not plan.parts:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in plan.left_out.items())
        raise ValueError(f"nothing to fetch: the index has no such page{f', but {reasons}' if reasons else ''}")
    with whole_file(root / "plan.parquet") as partial:
        pq.write_table(plan.captures, partial, compression="zstd")
    write_json(
        root / PLAN,
        {
            "settings": settings,
            "captures": len(plan.captures),
            "files": list(plan.files),
            "parts": plan.parts,
            "left_out": dict(plan.left_out),
            "digest": plan.digest,
        },
    )
    return plan


def _load(root: Path, settings: Mapping[str, Any]) -> Plan:
    frozen = json.loads((root / PLAN).read_text(encoding="utf-8"))
    _refuse_other(root, frozen["settings"], settings)
    captures = pq.read_table(root / "plan.parquet", use_threads=False)
    plan = Plan(captures, tuple(frozen["files"]), frozen["left_out"], _digest_of(captures, frozen["files"]))
    if plan.digest != frozen["digest"]:
        raise ValueError(f"{root / 'plan.parquet'}: not the plan of {root / PLAN}; choose another output")
    return plan


def _refuse_other(root: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    change = first_change(before, now)
    if change is not None:
        name, old, new = change
        raise ValueError(
            f"{root}: the setting {name} is {new!r}, this folder's crawl was begun with {old!r}; restore it, or choose "
            "another output"
        )


def _of_captures(config: CrawlConfig, client: PoliteClient) -> Plan:
    folder = config.output / "index"
    sites = Sites(config)
    found = lookups(config, sites, client, folder)
    paths = [folder / f"{number:06d}.parquet" for number in range(len(found))]
    # questions to the server one after another, as Common Crawl asks for
    threads = 1 if config.index == "server" else config.connections
    with Progress("crawl: look up", len(found), "look-ups") as progress, ThreadPoolExecutor(threads) as pool:
        for _ in in_order(pool, lambda pair: _look_up(*pair), list(zip(found, paths, strict=True)), 2 * threads):
            progress.advance()
    left_out: Counter[str] = Counter()
    chosen, others = select(_read_found(paths, left_out), config)
    left_out.update(others)
    captures = as_table(chosen).append_column("part", pa.array(_part_of_each(chosen), pa.int64()))
    return Plan(captures, (), dict(left_out), _digest_of(captures, ()))


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[Any], Any], items: Sequence[Any], ahead: int
) -> Iterator[Any]:
    """Yield the results in the order of the items; at most `ahead` are waiting. After a failure, no more are begun."""
    futures = [pool.submit(function, item) for item in items[:ahead]]
    try:
        for place in range(len(items)):
            result = futures[place].result()
            if place + ahead < len(items):
                futures.append(pool.submit(function, items[place + ahead]))
            futures[place] = None  # type: ignore[call-overload]
            yield result
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise


def _look_up(lookup: Lookup, path: Path) -> None:
    """Write what a look-up finds, unless that is done."""
    if path.is_file():
        return
    captures, bad = [], []
    for found in lookup.read():
        if isinstance(found, BadLineError):
            bad.append(f"{lookup.name}: {found}")
        else:
            captures.append(found)
    told = json.dumps([len(bad), bad[:_SHOWN]])
    with whole_file(path) as partial:
        pq.write_table(as_table(captures).replace_schema_metadata({_BAD_LINES: told}), partial, compression="zstd")


def _read_found(paths: Sequence[Path], left_out: Counter[str]) -> Iterator[Capture]:
    """Yield what the look-ups have found, in their order; lines that could not be used are counted and shown."""
    shown = 0
    for path in paths:
        with pq.ParquetFile(path) as file:
            count, examples = json.loads((file.schema_arrow.metadata or {}).get(_BAD_LINES, b"[0, []]"))
            if count:
                left_out["bad_index_line"] += count
                for example in examples[: max(0, _SHOWN - shown)]:
                    print(f"crawl: a line of the index cannot be used: {example}")
                    shown += 1
            yield from from_table(file.read(use_threads=False))


def _part_of_each(captures: Sequence[Capture]) -> list[int]:
    numbers, number, size, count = [], 0, 0, 0
    for capture in captures:
        if count and (size + capture.length > _PART_BYTES or count == _PART_CAPTURES):
            number, size, count = number + 1, 0, 0
        size, count = size + capture.length, count + 1
        numbers.append(number)
    return numbers


def _of_files(config: CrawlConfig, client: PoliteClient) -> Plan:
    assert config.files is not None
    files: list[str] = []
    for snapshot in config.snapshots:
        address = f"{config.data_address}/crawl-data/{snapshot}/{config.form}.paths.gz"
        try:
            content = client.get(address)
            paths = gzip.decompress(content).decode().split()
        except NotThereError as error:
            raise CrawlError(f"snapshots: {snapshot}: {error}; is this the name of a snapshot?") from None
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise CrawlError(f"{address}: damaged ({error}); run again") from None
        files += sorted(sorted(paths, key=lambda path: _lot(config.seed, path))[: config.files])
    return Plan(as_table([]).append_column("part", pa.array([], pa.int64())), tuple(files), {}, digest(files))


def _lot(seed: int, path: str) -> bytes:
    return hashlib.sha256(f"{seed}:{path}".encode()).digest()


def _digest_of(captures: pa.Table, files: Sequence[str]) -> str:
    if files:
        return digest(list(files))
    hashed = hashlib.sha256()
    for batch in captures.to_batches(max_chunksize=10_000):
        hashed.update(json.dumps(batch.to_pydict(), sort_keys=True).encode())
    return hashed.hexdigest()
