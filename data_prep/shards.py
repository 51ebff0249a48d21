"""The frozen manifest, its shards, and the commit records that make every stage resumable.

A run of data preparation lives in one folder. Its input is listed once, with sizes and digests, in `manifest.json`;
work is divided by that list and never by a live look at the disk. A unit of work counts as done when its commit record
exists, and the record is written after the outputs are whole: kill the program anywhere, run it again, and only what is
missing is done.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from data_prep.config import DataConfig, SourceConfig
from data_prep.inputs import SourceFiles, find_inputs, is_unchanged, stamp_of, with_digests
from data_prep.sources import FileRange, reader_of
from foundation.atomic_files import NewFile, digest, put_if_absent, room_for, sha256_file, whole_file, write_json
from foundation.progress import Progress

STAGES = ("extract", "measure", "dedup", "decide", "train-tokenizer", "report-tokenizer", "tokenize", "ledger")
"""Every stage in its order; `--restart STAGE` removes what this one and all later ones have written."""

WORK_PREFIX = ".work-"
"""Of temporary folders in a run's folder; one that is there when a run starts was left by a killed one."""

MANIFEST_VERSION = 2
_SETTLED_NANOSECONDS = 2_000_000_000
"""Longer than the coarsest clock of a common file system."""


class StaleOutputError(ValueError):
    """Outputs on disk were made from another input or with another setting."""


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


@dataclass(frozen=True)
class Share:
    """One of `processes` that divide the work of a stage among them, on machines that share a folder."""

    rank: int
    processes: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """From `RANK/PROCESSES`.

        Raises:
            ValueError: it is none.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not int(match[1]) < int(match[2]):
            raise ValueError(f"--share {text}: must be RANK/PROCESSES with RANK from 0, such as 0/16 or 15/16")
        return cls(int(match[1]), int(match[2]))


class RunDirectory:
    """The folder of one run and the places in it.

    Args:
        share: for a process that does a part of a stage.
        executor: where the units of a stage are worked at, see `executors`.
    """

    def __init__(self, root: Path, share: Share | None = None, executor: Literal["local", "ray"] = "local") -> None:
        self.root = Path(root)
        self.share = share
        self.executor = executor
        self.corpus = self.root / "corpus"
        self.signals = self.root / "signals"
        self.dedup = self.root / "dedup"
        self.verdicts = self.root / "verdicts"
        self.tokenizer = self.root / "tokenizer"
        self.tokenizer_report = self.root / "tokenizer_report"
        self.tokens = self.root / "tokens"
        self.quarantine = self.root / "quarantine"
        self.commits = self.root / "commits"
        self.manifest = self.root / "manifest.json"

    def outputs_of(self, stage: str) -> tuple[Path, ...]:
        """Everything that a stage writes, except its commit records."""
        return {
            "extract": (self.corpus, self.quarantine),
            "measure": (self.signals,),
            "dedup": (self.dedup,),
            "decide": (self.verdicts,),
            "train-tokenizer": (self.tokenizer,),
            "report-tokenizer": (self.tokenizer_report,),
            "tokenize": (self.tokens,),
            "ledger": (self.root / "ledger.json", self.root / "ledger.html"),
        }[stage]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; processes that have shares of it hold it together.

        Raises:
            ValueError: another process holds it.
        """
        with room_for(self.root / ".lock"):
            self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".lock", "a+") as file:
            try:
                fcntl.flock(file, (fcntl.LOCK_EX if self.share is None else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise ValueError(
                    f"{self.root}: {file.read().strip() or 'another process'} is working in this run; "
                    "wait for it, or choose another `output`"
                ) from None
            except OSError as error:
                raise ValueError(
                    f"{file.name}: the file system of `output` cannot lock files ({error.strerror}), and two runs "
                    "could write over each other; choose another, or let its administrator allow locks"
                ) from None
            if self.share is not None:
                yield
                return
            with room_for(self.root / ".lock"):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
            with open(self._worker_lock(), "w") as workers:
                fcntl.flock(workers, fcntl.LOCK_EX)  # a killed run's workers end within moments
            for left in self.root.glob(f"{WORK_PREFIX}*"):
                shutil.rmtree(left, ignore_errors=True)
            yield

    @contextlib.contextmanager
    def used_by_worker(self) -> Iterator[None]:
        """While a worker writes: a run that starts after a killed one waits for the workers that it left behind."""
        with open(self._worker_lock(), "w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def _worker_lock(self) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        return self.root / ".lock-workers"


# ---------------------------------------------------------------------------------------------------------------------
# manifest


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
        _refuse_changed_settings("manifest", "extract", manifest.settings, settings)
        _refuse_changed_files(manifest, run)
        return manifest
    if run.share is not None:
        raise ValueError(
            f"{run.manifest}: no such file; run `python -m data_prep freeze` first: what is shared out must be the "
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
        raise ValueError(f"{run.manifest}: no such file; run `python -m data_prep extract` first") from None
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


def _stamps_path(run: RunDirectory) -> Path:
    return run.commits / "manifest-stamps.json"


def _write_stamps(manifest: Manifest, run: RunDirectory) -> None:
    run.commits.mkdir(parents=True, exist_ok=True)
    paths = sorted({file.path for source in manifest.sources for file in source.files})
    # A file written again within one tick of the clock keeps its times, so the stamp of a fresh file proves nothing.
    settled = time.time_ns() - _SETTLED_NANOSECONDS
    stamps = {path: stamp for path in paths if (stamp := stamp_of(path)) is not None and max(stamp[1:]) < settled}
    write_json(_stamps_path(run), stamps)


def _refuse_changed_files(manifest: Manifest, run: RunDirectory) -> None:
    # Stamps (size and times) stand apart from the manifest, which depends on content alone. They save reading every
    # input byte at each start: a file whose stamp differs is read again, and only a different digest is a change.
    try:
        stamps = json.loads(_stamps_path(run).read_text(encoding="utf-8"))
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


# ---------------------------------------------------------------------------------------------------------------------
# commit records


@dataclass(frozen=True)
class Record:
    """What one unit of a stage has written."""

    unit: str
    version: int
    settings: Mapping[str, Any]
    inputs: str
    counts: Mapping[str, int]
    outputs: Mapping[str, tuple[int, str | None]] = field(default_factory=dict)
    """Path relative to the run -> (size in bytes, sha256, or None of what the stage itself reads and removes)."""

    @property
    def checksums(self) -> dict[str, str]:
        return {path: checksum for path, (_, checksum) in self.outputs.items() if checksum is not None}


class Stage:
    """One stage of a run: what is done, and under which settings.

    Args:
        name: one of `STAGES`.
        version: raised by hand when the code would write other bytes for the same input.
        settings: everything in the configuration that changes the bytes written (not the number of workers).
        inputs: digest of what it reads, see `committed_digest`.
    """

    def __init__(self, run: RunDirectory, name: str, version: int, settings: Mapping[str, Any], inputs: str) -> None:
        if name not in STAGES:
            raise ValueError(f"stage {name!r} is unknown; stages are {', '.join(STAGES)}")
        self.run = run
        self.name = name
        self.version = version
        self.settings: Mapping[str, Any] = json.loads(json.dumps(settings))  # as it will be read back: lists, no tuples
        self.inputs = inputs
        self.folder = run.commits / name

    def is_done(self, unit: str) -> bool:
        """Whether `unit` was committed and its outputs are still there.

        Raises:
            StaleOutputError: it was committed from another input, with another setting or by other code.
        """
        record = _read_record(self.folder / f"{unit}.json")
        if record is None:
            return False
        self._refuse_stale(record)
        lost = self._lost(record)
        if lost is not None:
            print(f"{lost}; {self.name} {unit} is done again", file=sys.stderr)
        return lost is None

    def _lost(self, record: Record) -> str | None:
        """What is wrong with the outputs of a record, for people; None: they are there."""
        for path, (size, _) in record.outputs.items():
            found = self.run.root / path
            actual = found.stat().st_size if found.is_file() else None
            if actual != size:
                what = "is missing" if actual is None else f"has {actual} bytes, {size} were committed"
                return f"{found}: {what}"
        return None

    def forget_lost(self, unit: str) -> None:
        """Remove the record of a unit if it is damaged or its outputs are lost; one that is true stays.

        It is moved aside before it is judged: another process may be committing the same unit at this moment.
        """
        path = self.folder / f"{unit}.json"
        aside = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.aside")
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, aside)
            record = _read_record(aside)
            if record is not None and self._lost(record) is None:
                put_if_absent(aside, path)
            aside.unlink()

    def new_file(self, digests: dict[Path, str] | None = None) -> NewFile:
        """Opener for the outputs of a unit; `digests` receives what `commit` wants to know of them.

        Where two processes may work at the same unit, be it by mistake, files in place are not replaced: their record
        may exist already.
        """
        return partial(whole_file, keep_first=self.keeps_first, digests=digests)

    @property
    def keeps_first(self) -> bool:
        """Whether outputs that are in place stay, because other processes may work at the same unit."""
        return self.run.share is not None or self.run.executor == "ray"

    def commit(
        self,
        unit: str,
        outputs: Sequence[Path],
        counts: Mapping[str, int],
        *,
        digests: Mapping[Path, str] = {},
        scratch: Sequence[Path] = (),
    ) -> None:
        """Declare `unit` done. Call it after every output is in place under its final name.

        Args:
            digests: SHA-256 of outputs that were hashed before they were put in place, see `new_file`; the others are
                read, which only a stage that has the run to itself may leave it to.
            scratch: outputs that this stage itself reads and removes, which are not hashed.

        Raises:
            FileNotFoundError: an output is not there.
            OtherContentError: another process has committed other outputs or counts.
        """
        hashed = {path: digests.get(path) or sha256_file(path) for path in outputs}
        written = {
            str(path.relative_to(self.run.root)): (path.stat().st_size, hashed.get(path))
            for path in (*outputs, *scratch)
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(
            self.folder / f"{unit}.json",
            {
                "stage": self.name,
                "unit": unit,
                "version": self.version,
                "settings": self.settings,
                "inputs": self.inputs,
                "counts": {name: int(count) for name, count in sorted(counts.items())},
                "outputs": written,
            },
            self.new_file(),
        )

    def records(self) -> dict[str, Record]:
        """Every committed unit, by name."""
        return read_records(self.run, self.name)

    def digest(self) -> str:
        """Changes with any byte that this stage has committed."""
        return _digest_of(self.records())

    def _refuse_stale(self, record: Record) -> None:
        where = f"{self.name} {record.unit}"
        advice = f"`--restart {self.name}` removes what this stage and later ones have written"
        if record.version != self.version:
            raise StaleOutputError(
                f"{where} was written by version {record.version} of this stage, the code is version {self.version}; "
                + advice
            )
        _refuse_changed_settings(where, self.name, record.settings, self.settings)
        if record.inputs != self.inputs:
            raise StaleOutputError(f"{where} was made from another input than there is now; {advice}")


def read_records(run: RunDirectory, stage: str) -> dict[str, Record]:
    """Every committed unit of a stage, by name, sorted."""
    folder = run.commits / stage
    records = (_read_record(path) for path in sorted(folder.glob("*.json"))) if folder.is_dir() else ()
    return {record.unit: record for record in records if record is not None}


def committed_digest(run: RunDirectory, stage: str, units: Sequence[str]) -> str:
    """Digest of what an earlier stage has committed: the `inputs` of the stage that reads it.

    Raises:
        ValueError: one of `units` is not committed.
    """
    records = read_records(run, stage)
    missing = [unit for unit in units if unit not in records]
    if missing:
        raise ValueError(
            f"{run.root}: {stage} is not complete, {len(missing)} of {len(units)} units are missing "
            f"(first: {missing[0]}); run `python -m data_prep {stage}` first"
        )
    return _digest_of({unit: records[unit] for unit in units})


def restart(run: RunDirectory, stage: str) -> tuple[str, ...]:
    """Remove what `stage` and every later stage have written; returns their names.

    Raises:
        ValueError: there is no such stage.
    """
    if stage not in STAGES:
        raise ValueError(f"--restart {stage}: no such stage; stages are {', '.join(STAGES)}")
    later = STAGES[STAGES.index(stage) :]
    for name in reversed(
        later
    ):  # records go before outputs, later stages before earlier: a kill leaves no false record
        shutil.rmtree(run.commits / name, ignore_errors=True)
        for output in run.outputs_of(name):
            if output.is_dir():
                shutil.rmtree(output)
            else:
                output.unlink(missing_ok=True)
    if stage == "extract":
        run.manifest.unlink(missing_ok=True)
        _stamps_path(run).unlink(missing_ok=True)
    return later


def _read_record(path: Path) -> Record | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Record(
            unit=content["unit"],
            version=content["version"],
            settings=content["settings"],
            inputs=content["inputs"],
            counts=content["counts"],
            outputs={name: (size, checksum) for name, (size, checksum) in content["outputs"].items()},
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        print(f"{path}: not a commit record ({error}); its unit is done again", file=sys.stderr)
        return None


def _digest_of(records: Mapping[str, Record]) -> str:
    return digest({unit: {"counts": dict(r.counts), "outputs": r.checksums} for unit, r in sorted(records.items())})


def _flatten(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, Mapping) and value:
        return {key: inner for name, item in value.items() for key, inner in _flatten(item, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): value} if prefix else {}


def _refuse_changed_settings(where: str, stage: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before, now = _flatten(old), _flatten(json.loads(json.dumps(new)))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name, "(not set)") != now.get(name, "(not set)"):
            raise StaleOutputError(
                f"{where}: the setting {name} is {now.get(name, '(not set)')!r}, the outputs on disk were made with "
                f"{before.get(name, '(not set)')!r}; set it back, or `--restart {stage}` removes what this stage "
                "and later ones have written"
            )
