"""The frozen manifest: a run's input, listed with sizes and digests, and divided into shards.

Work is divided by this list, not by what is on disk at the time.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from data_prep.config import DataConfig, SourceConfig
from data_prep.run.commit_records import StaleOutputError, refuse_changed_settings
from data_prep.run.directory import RunDirectory
from data_prep.run.inputs import InputFile, SourceFiles, find_inputs, is_unchanged, stamp_of, with_digests
from data_prep.sources import FileRange, reader_of
from foundation.atomic_files import digest, write_json
from foundation.progress import Progress
from foundation.version import program

MANIFEST_VERSION = 2
_SETTLED_NANOSECONDS = 2_000_000_000
"""Time longer than a tick of the coarsest clock of common file systems."""


@dataclass(frozen=True)
class Shard:
    """Unit of work: some ranges of the files of one source."""

    name: str
    source: str
    kind: str
    index: int
    ranges: tuple[FileRange, ...]

    @property
    def raw_bytes(self) -> int:
        """Bytes on disk; those that several shards share count for the first of them."""
        return sum(piece.end - piece.start for piece in self.ranges if not piece.unpacked_start)


@dataclass(frozen=True)
class Manifest:
    """Input of a run: the files of each source, and the shards that they are divided into."""

    sources: tuple[SourceFiles, ...]
    shards: tuple[Shard, ...]
    settings: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Digest that changes with any input byte and any setting that divides the input."""
        return digest({"sources": [asdict(source) for source in self.sources], "settings": self.settings})

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {shard.name: position for position, shard in enumerate(self.shards)}

    @cached_property
    def objects(self) -> dict[str, InputFile]:
        """Input that is in object stores, by its address."""
        return {file.path: file for source in self.sources for file in source.files if file.is_object}

    def arrival(self, source: str) -> int:
        """Return when a source arrived, see `SourceConfig.arrival`."""
        arrival: int = self.settings["sources"][source].get("arrival", 0)
        return arrival

    def options(self, source: str) -> Mapping[str, Any] | None:
        """Return the settings of a source that are for its kind alone."""
        options: Mapping[str, Any] | None = self.settings["sources"][source].get("options")
        return options

    def shard(self, name: str) -> Shard:
        return self.shards[self.position(name)]

    def position(self, name: str) -> int:
        """Return the place of a shard in the corpus."""
        if name not in self._positions:
            raise ValueError(f"shard {name!r} is not in the manifest; it has {len(self.shards)} shards")
        return self._positions[name]

    @property
    def shard_names(self) -> tuple[str, ...]:
        return tuple(shard.name for shard in self.shards)

    @property
    def chains(self) -> tuple[tuple[str, ...], ...]:
        """All shards; those of one compressed range are a group, because each continues where the last one stopped."""
        chains: list[list[str]] = []
        for shard in self.shards:
            if shard.ranges[0].unpacked_start:
                chains[-1].append(shard.name)
            else:
                chains.append([shard.name])
        return tuple(tuple(chain) for chain in chains)

    def obstacles(self) -> Iterator[str]:
        """Yield messages about large files that cannot be read from the middle, and the consequences."""
        limit = 2 * self.settings["shard_bytes"]
        for shard in self.shards:
            for piece in shard.ranges:
                if piece.unpacked_start or piece.end - piece.start < limit:
                    continue
                size = f"{piece.path}: {(piece.end - piece.start) / 1e6:,.1f} MB are compressed in one piece"
                if piece.is_part_of_packed:
                    yield f"{size}; one process decompresses them, shard by shard (pzstd and bgzip make many pieces)"
                else:
                    yield f"{size} and are one shard"


def manifest_settings(config: DataConfig) -> dict[str, Any]:
    """Return the settings that determine which bytes are read and how they are divided."""
    return {
        "version": MANIFEST_VERSION,
        "seed": config.seed,
        "shard_bytes": config.shard_bytes,
        "sources": {
            source.name: {
                "kind": source.kind,
                "paths": list(source.paths),
                "maximum_bytes": source.maximum_bytes,
                **({"arrival": source.arrival} if source.arrival else {}),
                **({"exclude": list(source.exclude)} if source.exclude else {}),
                **({"largest_files": source.largest_files} if source.largest_files else {}),
                **({"options": source.options} if source.options else {}),
            }
            for source in config.sources
        },
    }


def divide(
    source: SourceFiles,
    shard_bytes: int,
    threads: int = 1,
    advance: Callable[[int], None] = lambda size: None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Shard, ...]:
    """Divide files into shards of about `shard_bytes`: small files are grouped, large ones divided as far as their kind
    allows.

    `advance` is called with the bytes of each large file.
    """
    divide_file = reader_of(source.kind, options).divide
    large = [file for file in source.files if file.size > shard_bytes]
    divided: dict[str, list[FileRange]] = {}
    with ThreadPoolExecutor(threads) as pool:  # decompression releases the GIL
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
    """List the input; on later calls, load the list and check that input and settings have not changed.

    Raises:
        StaleOutputError: a setting that divides the input, or an input file, has changed.
        ValueError: no source has any file.
    """
    settings = manifest_settings(config)
    if run.manifest.exists():
        manifest = load_manifest(run)
        _refuse_unadded(manifest, settings)
        refuse_changed_settings("manifest", "extract", manifest.settings, settings)
        refuse_changed_files(manifest, run)
        return manifest
    if run.share is not None:
        raise ValueError(
            f"{run.manifest}: no such file; run `altiplano data freeze` first: the manifest must be the "
            "same for every process"
        )

    sources = tuple(find_inputs(source, config.seed) for source in config.sources)
    manifest = divided(config, sources)
    write_manifest(manifest, run)
    return manifest


def _refuse_unadded(manifest: Manifest, settings: Mapping[str, Any]) -> None:
    """Refuse a new source that arrives later than those of the manifest."""
    latest = max(map(manifest.arrival, manifest.settings["sources"]))
    for name, source in settings["sources"].items():
        if name not in manifest.settings["sources"] and source.get("arrival", 0) > latest:
            raise ValueError(f"sources: {name} is not in this run yet; `altiplano data add` adds it")


def divided(config: DataConfig, sources: Sequence[SourceFiles], frozen: Manifest | None = None) -> Manifest:
    """Return the manifest of files that were found; those of sources in `frozen` are neither read nor divided again.

    Args:
        sources: one for each of the configuration, in its order.

    Raises:
        ValueError: no source has any file.
    """
    known = {source.name: source for source in frozen.sources} if frozen else {}
    found = [source for source in sources if source.name not in known]
    configured = {source.name: source for source in config.sources}
    if not any(source.files for source in found):
        raise ValueError(
            "no source has a single readable file; "
            + "; ".join(_nothing_found(configured[source.name], source) for source in found)
        )
    with Progress("freeze the input", sum(source.raw_bytes for source in found), "bytes") as progress:
        known |= {source.name: with_digests(source, progress.advance, config.workers) for source in found}
    shards: dict[str, list[Shard]] = {name: [] for name in configured}
    for shard in frozen.shards if frozen else ():
        shards[shard.source].append(shard)
    large_bytes = sum(file.size for source in found for file in source.files if file.size > config.shard_bytes)
    with Progress("divide large files", large_bytes, "bytes") if large_bytes else contextlib.nullcontext() as progress:
        advance = progress.advance if progress else lambda size: None
        for source in found:
            options = configured[source.name].options
            shards[source.name] += divide(known[source.name], config.shard_bytes, config.workers, advance, options)
    return Manifest(
        tuple(known[name] for name in configured),
        tuple(shard for name in configured for shard in shards[name]),
        manifest_settings(config),
    )


def write_manifest(manifest: Manifest, run: RunDirectory) -> None:
    """Write the manifest, and the stamps of its files."""
    run.root.mkdir(parents=True, exist_ok=True)
    _write_stamps(manifest, run)
    write_json(
        run.manifest,
        {
            "digest": manifest.digest,
            "program": program(),
            "settings": manifest.settings,
            "sources": [asdict(source) for source in manifest.sources],
            "shards": [asdict(shard) for shard in manifest.shards],
        },
    )


def _nothing_found(source: SourceConfig, found: SourceFiles) -> str:
    """Explain why a source has no file: missing paths, and folders whose files are of other kinds."""
    there = [path for path in source.paths if path not in found.missing]
    parts = [f"not found: {', '.join(f'{path} ({source.name})' for path in found.missing)}"] if found.missing else []
    if there:
        suffixes = ", ".join(f"{count} {suffix}" for suffix, count in found.skipped.items()) or "no files"
        looked = ", ".join(f"{path} ({source.name})" for path in there)
        parts.append(f"{looked} has no file that kind {source.kind!r} reads, but {suffixes}")
    return "; ".join(parts)


def load_manifest(run: RunDirectory) -> Manifest:
    """Load the frozen manifest.

    Raises:
        ValueError: there is none, or it has been edited.
    """
    try:
        frozen = json.loads(run.manifest.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{run.manifest}: no such file; run `altiplano data extract` first") from None
    except ValueError as error:
        raise ValueError(f"{run.manifest}: not JSON ({error}); `--restart extract` writes it again") from None
    shards = tuple(
        Shard(**{**shard, "ranges": tuple(FileRange(**piece) for piece in shard["ranges"])})
        for shard in frozen["shards"]
    )
    manifest = Manifest(
        tuple(SourceFiles.from_json(source) for source in frozen["sources"]), shards, frozen["settings"]
    )
    if manifest.digest != frozen["digest"]:
        raise ValueError(f"{run.manifest}: edited, its digest does not match; `--restart extract` writes it again")
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
    paths = sorted({file.path for source in manifest.sources for file in source.files if not file.is_object})
    # A file written twice within a tick of the clock keeps its times, so the stamp of a fresh file proves nothing.
    settled = time.time_ns() - _SETTLED_NANOSECONDS
    stamps = {path: stamp for path in paths if (stamp := stamp_of(path)) is not None and max(stamp[1:]) < settled}
    write_json(run.manifest_stamps, stamps)


def refuse_changed_files(manifest: Manifest, run: RunDirectory) -> None:
    """Refuse input files that are not those that were frozen.

    Raises:
        StaleOutputError: one is gone, or has another content.
    """
    # Stamps (size and times) are separate from the manifest, which depends on content only. They save reading every
    # input byte at each start: a file whose stamp differs is read again, and only a different digest is a change.
    try:
        stamps = json.loads(run.manifest_stamps.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        stamps = {}
    changed: dict[str, str] = {}
    was_stamped = True
    for source in manifest.sources:
        for file in source.files:
            if file.is_object:
                continue  # the reader of each shard compares tags
            stamp = stamp_of(file.path)
            if stamp is None:
                changed[file.path] = "does not exist any more"
            elif stamp[0] != file.size:
                changed[file.path] = f"has {stamp[0]} bytes, had {file.size}"
            elif stamps.get(file.path) != stamp:
                was_stamped = False
                if not is_unchanged(file):
                    changed[file.path] = "has changed since it was frozen"
    if changed:
        path, what = next(iter(changed.items()))
        more = f" (and {len(changed) - 1} more files)" if len(changed) > 1 else ""
        raise StaleOutputError(
            f"{path}: the input {what}{more}; {run.root} was made from the original. Restore it, "
            "start over with `--restart extract`, or choose another `output`"
        )
    if not was_stamped and run.share is None:
        _write_stamps(manifest, run)
