"""The frozen manifest: a run's input, listed once with sizes and digests, and divided into shards.

Work is divided by this list and never by a live look at the disk.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from data_prep.config import DataConfig, SourceConfig
from data_prep.run.commit_records import StaleOutputError, refuse_changed_settings
from data_prep.run.directory import RunDirectory
from data_prep.run.inputs import SourceFiles, find_inputs, is_unchanged, stamp_of, with_digests
from data_prep.sources import FileRange, reader_of
from foundation.atomic_files import digest, write_json
from foundation.progress import Progress
from foundation.version import program

MANIFEST_VERSION = 2
_SETTLED_NANOSECONDS = 2_000_000_000
"""Longer than the coarsest clock of a common file system."""


@dataclass(frozen=True)
class Shard:
    """A unit of work: some ranges of the files of one source."""

    name: str
    source: str
    kind: str
    index: int
    ranges: tuple[FileRange, ...]

    @property
    def raw_bytes(self) -> int:
        """Bytes on the disk; those that several shards share are counted with the first of them."""
        return sum(piece.end - piece.start for piece in self.ranges if not piece.unpacked_start)


@dataclass(frozen=True)
class Manifest:
    """What this run reads: the files of each source, and the shards that they are divided into."""

    sources: tuple[SourceFiles, ...]
    shards: tuple[Shard, ...]
    settings: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Changes with any input byte, and with any setting that divides the input."""
        return digest({"sources": [asdict(source) for source in self.sources], "settings": self.settings})

    @cached_property
    def _by_name(self) -> dict[str, Shard]:
        return {shard.name: shard for shard in self.shards}

    def shard(self, name: str) -> Shard:
        if name not in self._by_name:
            raise ValueError(f"shard {name!r} is not in the manifest; it has {len(self.shards)} shards")
        return self._by_name[name]

    @property
    def shard_names(self) -> tuple[str, ...]:
        return tuple(shard.name for shard in self.shards)

    @property
    def chains(self) -> tuple[tuple[str, ...], ...]:
        """Every shard once: those that come out of one packed range together, each going on where the last stopped."""
        chains: list[list[str]] = []
        for shard in self.shards:
            if shard.ranges[0].unpacked_start:
                chains[-1].append(shard.name)
            else:
                chains.append([shard.name])
        return tuple(tuple(chain) for chain in chains)

    def obstacles(self) -> Iterator[str]:
        """Large files that cannot be entered in the middle, for people, and what that means for them."""
        limit = 2 * self.settings["shard_bytes"]
        for shard in self.shards:
            for piece in shard.ranges:
                if piece.unpacked_start or piece.end - piece.start < limit:
                    continue
                size = f"{piece.path}: {(piece.end - piece.start) / 1e6:,.1f} MB are packed in one piece"
                if piece.is_part_of_packed:
                    yield f"{size}; one process unpacks them, shard by shard (pzstd and bgzip pack in many pieces)"
                else:
                    yield f"{size} and make one shard"


def _manifest_settings(config: DataConfig) -> dict[str, Any]:
    """The settings that decide which bytes are read and how they are divided."""
    return {
        "version": MANIFEST_VERSION,
        "seed": config.seed,
        "shard_bytes": config.shard_bytes,
        "sources": {
            source.name: {"kind": source.kind, "paths": list(source.paths), "maximum_bytes": source.maximum_bytes}
            for source in config.sources
        },
    }


def divide(
    source: SourceFiles, shard_bytes: int, threads: int = 1, advance: Callable[[int], None] = lambda size: None
) -> tuple[Shard, ...]:
    """Shards of about `shard_bytes`: small files are grouped, a large one is divided as far as its kind allows it.

    `advance` is told the bytes of each large file.
    """
    divide_file = reader_of(source.kind).divide
    large = [file for file in source.files if file.size > shard_bytes]
    divided: dict[str, list[FileRange]] = {}
    with ThreadPoolExecutor(threads) as pool:  # unpacking, where it takes that, leaves Python's lock to the others
        results = pool.map(lambda file: divide_file(file.path, file.size, shard_bytes), large)
        for file, pieces in zip(large, results, strict=True):
            divided[file.path] = pieces
            advance(file.size)
    groups: list[list[FileRange]] = []
    group: list[FileRange] = []
    group_bytes = 0
    for file in source.files:
        pieces = divided.get(file.path) or [FileRange(file.path, 0, file.size, file.size)]
        if len(pieces) > 1 or (group and group_bytes + file.size > shard_bytes):
            groups.append(group)
            group, group_bytes = [], 0
        if len(pieces) > 1:
            groups.extend([piece] for piece in pieces)
            continue
        group.append(pieces[0])
        group_bytes += file.size
    groups.append(group)
    return tuple(
        Shard(f"{source.name}-{index:05d}", source.name, source.kind, index, tuple(ranges))
        for index, ranges in enumerate(ranges for ranges in groups if ranges)
    )


def freeze_manifest(config: DataConfig, run: RunDirectory) -> Manifest:
    """List the input once; on later calls, load the list and check that input and settings are still the same.

    Raises:
        StaleOutputError: a setting that divides the input changed, or an input file changed, grew or went away.
        ValueError: no source has a single file.
    """
    settings = _manifest_settings(config)
    if run.manifest.exists():
        manifest = load_manifest(run)
        refuse_changed_settings("manifest", "extract", manifest.settings, settings)
        _refuse_changed_files(manifest, run)
        return manifest
    if run.share is not None:
        raise ValueError(
            f"{run.manifest}: no such file; run `altiplano data freeze` first: what is shared out must be the "
            "same for every process"
        )

    sources = tuple(find_inputs(source, config.seed) for source in config.sources)
    if not any(source.files for source in sources):
        raise ValueError(
            f"no source has a single readable file; {'; '.join(map(_nothing_found, config.sources, sources))}"
        )
    with Progress("freeze the input", sum(source.raw_bytes for source in sources), "bytes") as progress:
        sources = tuple(with_digests(source, progress.advance, config.workers) for source in sources)
    large_bytes = sum(file.size for source in sources for file in source.files if file.size > config.shard_bytes)
    with Progress("divide large files", large_bytes, "bytes") if large_bytes else contextlib.nullcontext() as progress:
        advance = progress.advance if progress else lambda size: None
        shards = tuple(
            shard for source in sources for shard in divide(source, config.shard_bytes, config.workers, advance)
        )
    manifest = Manifest(sources, shards, settings)
    run.root.mkdir(parents=True, exist_ok=True)
    _write_stamps(manifest, run)
    write_json(
        run.manifest,
        {
            "digest": manifest.digest,
            "program": program(),
            "settings": settings,
            "sources": [asdict(source) for source in sources],
            "shards": [asdict(shard) for shard in shards],
        },
    )
    return manifest


def _nothing_found(source: SourceConfig, found: SourceFiles) -> str:
    """Why a source has no file: paths that are not there, and files in folders that are of no use to it."""
    there = [path for path in source.paths if path not in found.missing]
    parts = [f"not found: {', '.join(f'{path} ({source.name})' for path in found.missing)}"] if found.missing else []
    if there:
        suffixes = ", ".join(f"{count} {suffix}" for suffix, count in found.skipped.items()) or "no files"
        looked = ", ".join(f"{path} ({source.name})" for path in there)
        parts.append(f"{looked} has no file that kind {source.kind!r} reads, but {suffixes}")
    return "; ".join(parts)


def load_manifest(run: RunDirectory) -> Manifest:
    """The manifest as it was frozen.

    Raises:
        ValueError: there is none, or it was edited.
    """
    try:
        frozen = json.loads(run.manifest.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{run.manifest}: no such file; run `altiplano data extract` first") from None
    except ValueError as error:
        raise ValueError(f"{run.manifest}: not JSON ({error}); `--restart extract` makes it anew") from None
    shards = tuple(
        Shard(**{**shard, "ranges": tuple(FileRange(**piece) for piece in shard["ranges"])})
        for shard in frozen["shards"]
    )
    manifest = Manifest(
        tuple(SourceFiles.from_json(source) for source in frozen["sources"]), shards, frozen["settings"]
    )
    if manifest.digest != frozen["digest"]:
        raise ValueError(f"{run.manifest}: was edited, its digest does not match; `--restart extract` makes it anew")
    return manifest


@lru_cache(maxsize=1)
def manifest_at(path: Path, inputs: str) -> Manifest:
    """Load the manifest once in each process: it may list a million files, too many to send along with every task or
    to read again for every shard.

    Args:
        inputs: anything that changes with the manifest.
    """
    return load_manifest(RunDirectory(path.parent))


def _write_stamps(manifest: Manifest, run: RunDirectory) -> None:
    run.commits.mkdir(parents=True, exist_ok=True)
    paths = sorted({file.path for source in manifest.sources for file in source.files})
    # A file written again within one tick of the clock keeps its times, so the stamp of a fresh file proves nothing.
    settled = time.time_ns() - _SETTLED_NANOSECONDS
    stamps = {path: stamp for path in paths if (stamp := stamp_of(path)) is not None and max(stamp[1:]) < settled}
    write_json(run.manifest_stamps, stamps)


def _refuse_changed_files(manifest: Manifest, run: RunDirectory) -> None:
    # Stamps (size and times) stand apart from the manifest, which depends on content alone. They save reading every
    # input byte at each start: a file whose stamp differs is read again, and only a different digest is a change.
    try:
        stamps = json.loads(run.manifest_stamps.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        stamps = {}
    changed: dict[str, str] = {}
    was_stamped = True
    for source in manifest.sources:
        for file in source.files:
            stamp = stamp_of(file.path)
            if stamp is None:
                changed[file.path] = "is gone"
            elif stamp[0] != file.size:
                changed[file.path] = f"has {stamp[0]} bytes, had {file.size}"
            elif stamps.get(file.path) != stamp:
                was_stamped = False
                if not is_unchanged(file):
                    changed[file.path] = "has other content than when it was frozen"
    if changed:
        path, what = next(iter(changed.items()))
        more = f" (and {len(changed) - 1} more files)" if len(changed) > 1 else ""
        raise StaleOutputError(
            f"{path}: the input {what}{more}; {run.root} was made from it as it was. Put it back, "
            "start over with `--restart extract`, or choose another `output`"
        )
    if not was_stamped and run.share is None:
        _write_stamps(manifest, run)
