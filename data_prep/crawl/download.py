"""Whole files in ranges, each of which is kept when the next one fails."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from data_prep.crawl.polite_client import CrawlError, PoliteClient
from foundation.atomic_files import room_for, whole_file

RANGE_BYTES = 32 << 20


def download(
    client: PoliteClient, address: str, path: Path, advance: Callable[[int], None] = lambda size: None
) -> None:
    """Fetch a file in ranges, unless it is there.

    The ranges are files of `<name>.ranges` until all are there; what a killed process has left is used, if the file at
    the address has not changed.

    Args:
        advance: called with the bytes of each range.

    Raises:
        NotThereError, CrawlError: see `PoliteClient`; or the file changes while it is fetched.
    """
    if path.is_file():
        return
    folder = path.with_name(path.name + ".ranges")
    first, size, tag = client.get_range(address, 0, RANGE_BYTES)
    state = folder / "state"
    known = f"{size} {RANGE_BYTES} {tag}"
    if not state.is_file() or state.read_text(encoding="utf-8") != known:
        shutil.rmtree(folder, ignore_errors=True)
        with whole_file(state) as partial:
            partial.write_text(known, encoding="utf-8")
    parts = [folder / f"{start:015d}" for start in range(0, size, RANGE_BYTES)]
    for number, part in enumerate(parts):
        start = number * RANGE_BYTES
        stop = min(start + RANGE_BYTES, size)
        if not part.is_file():
            content = first
            if number:
                content, found_size, found_tag = client.get_range(address, start, stop)
                if (found_size, found_tag) != (size, tag):
                    raise CrawlError(f"{address}: changed while it was fetched; run again")
            with whole_file(part) as partial:
                partial.write_bytes(content)
        advance(stop - start)
    with whole_file(path) as partial, room_for(path), open(partial, "wb") as file:
        for part in parts:
            with open(part, "rb") as content_file:
                shutil.copyfileobj(content_file, file, 1 << 20)
    shutil.rmtree(folder)
