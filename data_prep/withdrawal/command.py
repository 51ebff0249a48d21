"""The command `altiplano data remove`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from data_prep.config import DataConfig
from data_prep.ledger.counts import write_ledger
from data_prep.run.commit_records import read_records
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import Manifest, freeze_manifest
from data_prep.tokenize import tokenize
from data_prep.withdrawal.listed import NAMED, find_documents, put_on_list, read_list

_SHOWN = 10
_Row = TypeVar("_Row")


def remove_documents(
    config: DataConfig, run: RunDirectory, named: Sequence[str], listed: Path | None, note: str
) -> str:
    """Put documents on the list of withdrawn ones, and take those on it out of the token files.

    Args:
        named, listed: ids or URLs, and a file with one in each line.
        note: is written to the list.

    Returns:
        What to do next, for a person.

    Raises:
        ValueError: the run is not finished, or there is no such document; nothing has changed then.
    """
    manifest = freeze_manifest(config, run)
    _refuse_unfinished(run, manifest)
    names = [*named, *(_lines(listed) if listed is not None else ())]
    if names:
        _put_on_list(config, run, manifest, names, note)
    elif note:
        raise ValueError("--note: has no effect without --document or --from")
    elif config.withdrawn is None:
        raise ValueError("nothing to take out: give --document or --from")
    count = sum(len(ids) for ids in read_list(config.withdrawn, manifest, run).values())
    tokenize(config, run)
    write_ledger(config, run)
    mixture = run.tokens / "mixture.yaml"
    return "\n".join(
        [
            f"{count:,} documents are on the list {config.withdrawn}",
            f"their text is still in the input, in {run.corpus}, and perhaps in samples of {run.root}/ledger.html",
            "next:",
            f"  start training on {mixture} again: it goes on without them, and until then it has the old files open",
            "  altiplano seen --config configs/train/….yaml     which steps and checkpoints of a run saw them",
        ]
    )


def _refuse_unfinished(run: RunDirectory, manifest: Manifest) -> None:
    done = read_records(run, "tokenize")
    missing = [name for name in manifest.settings["sources"] if name not in done]
    if missing or not (run.tokens / "mixture.yaml").is_file():
        raise ValueError(f"{run.root}: the run is not finished; `altiplano data run` leaves out what is on the list")


def _lines(path: Path) -> list[str]:
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    if not any(names):
        raise ValueError(f"{path}: empty; an id or URL is expected in each line")
    return [name for name in names if name]


def _put_on_list(config: DataConfig, run: RunDirectory, manifest: Manifest, names: Sequence[str], note: str) -> None:
    found = find_documents(run, manifest, names, note)
    new = put_on_list(config, run, manifest, found)
    copies = [entry for entry in found.entries if entry.why != NAMED]
    print(f"remove: {len(found.entries) - len(copies):,} documents, {new:,} new on the list {config.withdrawn}")
    _say(copies, "copies kept in their place go as well", lambda entry: f"{entry.id}, {entry.why} ({entry.url})")
    _say(
        sorted(found.containing.items()),
        "documents that contain their text stay; name them if they are to go",
        lambda pair: f"{pair[0]}, contains {pair[1]}",
    )
    if found.dropped:
        print(f"remove: {len(found.dropped):,} of them are in no token file, because they were dropped")


def _say(rows: Sequence[_Row], what: str, show: Callable[[_Row], str]) -> None:
    if not rows:
        return
    print(f"remove: {len(rows):,} {what}:")
    for row in rows[:_SHOWN]:
        print(f"  {show(row)}")
    if len(rows) > _SHOWN:
        print(f"  and {len(rows) - _SHOWN:,} more")
