"""Reading of texts of some documents of a shard."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import Shard


def read_texts(run: RunDirectory, shard: Shard, rows: npt.NDArray[np.int64]) -> Iterator[tuple[bytes, str]]:
    """Yield the UTF-8 text and the URL of some rows of a document shard, given in ascending order.

    Raises:
        ValueError: the shard cannot be read.
    """
    path = run.corpus / f"{shard.name}.parquet"
    try:
        with pq.ParquetFile(path) as file:
            before = 0
            for group in range(file.num_row_groups):
                after = before + file.metadata.row_group(group).num_rows
                inside = rows[np.searchsorted(rows, before) : np.searchsorted(rows, after)]
                if len(inside):
                    taken = file.read_row_group(group, columns=["text", "url"], use_threads=False).take(inside - before)
                    texts = taken.column("text").cast(pa.large_binary()).to_pylist()
                    yield from zip(texts, taken.column("url").to_pylist(), strict=True)
                before = after
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not a readable document shard ({error}); `--restart extract` writes it again"
        ) from error
