"""Commit records: they make every stage resumable.

A unit of work is done when its commit record exists, which is written after the outputs are complete: when the program
is killed and run again, only what is missing is done.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from data_prep.run.directory import RunDirectory
from data_prep.stages import STAGES, from_stage_on
from foundation.atomic_files import NewFile, digest, put_if_absent, sha256_file, whole_file, write_json
from foundation.configuration import first_change


class StaleOutputError(ValueError):
    """Outputs on disk are from another input or setting."""


@dataclass(frozen=True)
class Record:
    """Record of what a unit of a stage has written."""

    unit: str
    version: int
    settings: Mapping[str, Any]
    inputs: str
    counts: Mapping[str, int]
    outputs: Mapping[str, tuple[int, str | None]] = field(default_factory=dict)
    """Size in bytes and SHA-256 by path relative to the run; the digest is None for files that the stage itself reads
    and removes."""

    @property
    def checksums(self) -> dict[str, str]:
        return {path: checksum for path, (_, checksum) in self.outputs.items() if checksum is not None}


class Stage:
    """A stage of a run with its settings and inputs.

    Args:
        name: one of `STAGES`.
        version: raised when the code would write other bytes for the same input.
        settings: all settings that affect the bytes written (not the number of workers).
        inputs: digest of what the stage reads, see `committed_digest`.
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
        """Return whether `unit` is committed and its outputs exist.

        Raises:
            StaleOutputError: it was committed from another input, with other settings or by another version.
        """
        record = self.record(unit)
        if record is None:
            return False
        record = self.up_to_date(record)
        self._refuse_stale(record)
        lost = self._lost(record)
        if lost is not None:
            print(f"{lost}; {self.name} {unit} is done again", file=sys.stderr)
        return lost is None

    def up_to_date(self, record: Record) -> Record:
        """Return the record of a unit; one that was written before the last arrival, and left by it because the unit
        reads the same as then, is written again with what the stage reads now, see `arrivals`."""
        if record.inputs == self.inputs or record.inputs != self._inputs_before:
            return record
        path = self.folder / f"{record.unit}.json"
        write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "inputs": self.inputs})
        return replace(record, inputs=self.inputs)

    @cached_property
    def _inputs_before(self) -> str | None:
        """What the records of this stage were made from before the last arrival; None: nothing has arrived."""
        try:
            found: str | None = json.loads(self.run.arrivals.read_text(encoding="utf-8"))["inputs"].get(self.name)
        except FileNotFoundError:
            return None
        return found

    def _lost(self, record: Record) -> str | None:
        """Describe the first missing or truncated output of a record; None: all exist."""
        for path, (size, _) in record.outputs.items():
            found = self.run.root / path
            actual = found.stat().st_size if found.is_file() else None
            if actual != size:
                what = "is missing" if actual is None else f"has {actual} bytes, {size} were committed"
                return f"{found}: {what}"
        return None

    def forget_lost(self, unit: str) -> None:
        """Remove the record of a unit if it is damaged or its outputs are lost.

        The record is renamed before it is examined: another process may be committing the same unit.
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
        """Return the opener for outputs of a unit; `digests` receives their digests for `commit`.

        If two processes may do the same unit, existing files are not replaced: their record may exist already.
        """
        return partial(whole_file, keep_first=self.keeps_first, digests=digests)

    @property
    def keeps_first(self) -> bool:
        """Whether existing outputs are kept, because other processes may do the same unit."""
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
        """Commit `unit`. Call it when every output exists under its final name.

        Args:
            digests: SHA-256 of outputs that were hashed before they were renamed, see `new_file`. Other outputs are
                read here, which is safe only if no other process writes to the run.
            scratch: outputs that this stage itself reads and removes; they are not hashed.

        Raises:
            FileNotFoundError: an output does not exist.
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

    def amend(self, unit: str, digests: Mapping[Path, str | None]) -> None:
        """Write the record of a unit again, after outputs were replaced or added, or before they are.

        Args:
            digests: SHA-256 of these outputs; None: the record is to be without it.
        """
        names = {path: str(path.relative_to(self.run.root)) for path in digests}
        changed = {names[path]: (path.stat().st_size, sha256) for path, sha256 in digests.items() if sha256}
        path = self.folder / f"{unit}.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        kept = {name: output for name, output in content["outputs"].items() if name not in names.values()}
        write_json(path, {**content, "outputs": dict(sorted({**kept, **changed}.items()))})

    def record(self, unit: str) -> Record | None:
        """Return the record of a unit; None: it is not committed."""
        return _read_record(self.folder / f"{unit}.json")

    def forget_others(self, unit: str) -> None:
        """Remove the records of all units but one, which has taken over what they have written."""
        for path in self.folder.glob("*.json"):
            if path.name != f"{unit}.json":
                path.unlink()

    def records(self) -> dict[str, Record]:
        """Return the records of all committed units by name."""
        return read_records(self.run, self.name)

    def digest(self) -> str:
        """Return a digest of all that this stage has committed."""
        return _digest_of(self.records())

    def _refuse_stale(self, record: Record) -> None:
        where = f"{self.name} {record.unit}"
        advice = f"`--restart {self.name}` removes the outputs of this stage and later ones"
        if record.version != self.version:
            raise StaleOutputError(
                f"{where} was written by version {record.version} of this stage, the code is version {self.version}; "
                + advice
            )
        refuse_changed_settings(where, self.name, record.settings, self.settings)
        if record.inputs != self.inputs:
            raise StaleOutputError(f"{where} was made from another input; {advice}")


def read_records(run: RunDirectory, stage: str) -> dict[str, Record]:
    """Return the records of all committed units of a stage by name, sorted."""
    folder = run.commits / stage
    records = (_read_record(path) for path in sorted(folder.glob("*.json"))) if folder.is_dir() else ()
    return {record.unit: record for record in records if record is not None}


def committed_digest(run: RunDirectory, stage: str, units: Sequence[str]) -> str:
    """Return the digest of what an earlier stage has committed: the `inputs` of a stage that reads it.

    Raises:
        ValueError: one of `units` is not committed.
    """
    records = read_records(run, stage)
    missing = [unit for unit in units if unit not in records]
    if missing:
        raise ValueError(
            f"{run.root}: {stage} is not complete, {len(missing)} of {len(units)} units are missing "
            f"(first: {missing[0]}); run `altiplano data {stage}` first"
        )
    return _digest_of({unit: records[unit] for unit in units})


def restart(run: RunDirectory, stage: str) -> tuple[str, ...]:
    """Remove the outputs of `stage` and every later stage; return their names.

    Raises:
        ValueError: there is no such stage.
    """
    if stage not in STAGES:
        raise ValueError(f"--restart {stage}: no such stage; stages are {', '.join(STAGES)}")
    later = from_stage_on(stage)
    # Records are removed before outputs, later stages before earlier ones: a kill leaves no record without outputs.
    for name in reversed(later):
        remove_outputs(run, name)
    if stage == "extract":
        run.arrivals.unlink(missing_ok=True)
        run.changed_verdicts.unlink(missing_ok=True)
        shutil.rmtree(run.verdicts_before, ignore_errors=True)
        run.manifest.unlink(missing_ok=True)
        run.manifest_stamps.unlink(missing_ok=True)
    return later


def remove_outputs(run: RunDirectory, stage: str) -> None:
    """Remove the records of a stage, then its outputs."""
    shutil.rmtree(run.commits / stage, ignore_errors=True)
    for output in run.outputs_of(stage):
        if output.is_dir():
            shutil.rmtree(output)
        else:
            output.unlink(missing_ok=True)


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


def refuse_changed_settings(where: str, stage: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise StaleOutputError if settings differ, naming the first one."""
    change = first_change(old, new)
    if change is not None:
        name, before, now = change
        raise StaleOutputError(
            f"{where}: the setting {name} is {now!r}, the outputs on disk were made with {before!r}; restore it, or "
            f"`--restart {stage}` removes the outputs of this stage and later ones"
        )
