"""Lookup of a document by its id: its rows in the corpus, the signals and the verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.run.directory import RunDirectory


class Lookup:
    """Access to rows of a run by document id. In the order of the corpus, each row group is read once.

    Every method raises ValueError if the stage has not run, or there is no such shard or row.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._groups: dict[str, tuple[Path, int, pa.Table]] = {}
        """The last row group read, by stage: its file, the row it starts at, its rows."""

    def document(self, identity: str) -> dict[str, Any]:
        """Return the row with the columns of `documents.DOCUMENTS`."""
        return self._row(self._run.corpus, identity, "extract")

    def signals(self, identity: str) -> dict[str, Any]:
        """Return the row with the columns of `table.SIGNALS`."""
        return self._row(self._run.signals, identity, "measure")

    def verdict(self, identity: str) -> dict[str, Any]:
        """Return the row with the columns of `documents.VERDICTS`."""
        return self._row(self._run.verdicts, identity, "decide")

    def _row(self, folder: Path, identity: str, stage: str) -> dict[str, Any]:
        shard, _, number = identity.rpartition("/")
        path, row = folder / f"{shard}.parquet", int(number)
        held = self._groups.get(stage)
        if held is None or held[0] != path or not held[1] <= row < held[1] + len(held[2]):
            start, table = _read_group(path, identity, row, stage)
            self._groups[stage] = held = (path, start, table)
        found: dict[str, Any] = held[2].slice(row - held[1], 1).to_pylist()[0]
        if found["id"] != identity:
            raise ValueError(f"{path}: has {found['id']} in the row of {identity}; `--restart {stage}` writes it again")
        return found


def _read_group(path: Path, identity: str, row: int, stage: str) -> tuple[int, pa.Table]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run `altiplano data {stage}` first")
    with pq.ParquetFile(path) as file:
        start = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if start <= row < start + rows:
                return start, file.read_row_group(group)
            start += rows
        raise ValueError(f"{identity}: the shard has {start} documents, rows count from 0")
