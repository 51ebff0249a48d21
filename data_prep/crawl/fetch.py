"""Fetching of what a plan names: parts of many captures, or whole files.

    part-00000.warc.gz    the captures of a part, each a member of its own, as they are in the archives
    part-00000.json       the record of the part: counts, what could not be fetched, digest; written last
    complete.json         counts of all parts; written when all are there

A file has its final name only when it is whole. A capture is taken if its bytes are one whole gzip member with a record
of the address that the index names; otherwise it is fetched again, and then left out with the reason.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.crawl.captures import Capture
from data_prep.crawl.config import CrawlConfig
from data_prep.crawl.download import download
from data_prep.crawl.plan import Plan, freeze_plan, in_order
from data_prep.crawl.polite_client import CrawlError, NotThereError, PoliteClient
from data_prep.crawl.state import COMPLETE
from data_prep.sources.warc_records import LONGEST_HEADER, MAGIC, headers_of
from foundation.atomic_files import room_for, sha256_file, whole_file, write_json
from foundation.progress import Progress

_GAP_BYTES = 1 << 16
"""Bytes between two captures that are fetched with them rather than asked around."""
_REQUEST_BYTES = 8 << 20
_DAMAGED_ATTEMPTS = 3


@dataclass(frozen=True)
class LeftOut:
    """A capture that could not be fetched."""

    reason: str
    detail: str


def crawl(config: CrawlConfig) -> dict[str, Any]:
    """Fetch what the settings name into `output`; what is there already is kept.

    Returns:
        The content of `complete.json`.

    Raises:
        ValueError: the folder has another crawl, or there is nothing to fetch.
        CrawlError: a server cannot be reached or refuses; finished work is kept.
    """
    client = PoliteClient(config.connections)
    with _locked(config.output):
        plan = freeze_plan(config, client)
        names = _names(plan)
        todo = [number for number, name in enumerate(names) if not _is_done(config.output, name, plan)]
        if not todo and (config.output / COMPLETE).is_file():
            print(f"{config.output}: already complete")
            return _read(config.output / COMPLETE)
        (config.output / COMPLETE).unlink(missing_ok=True)
        with (
            Progress("crawl: fetch", len(names), "parts", done=len(names) - len(todo)) as progress,
            ThreadPoolExecutor(config.connections) as pool,
        ):
            work = _fetch_file if plan.files else _fetch_part
            tasks = [(client, config, plan, number, names[number]) for number in todo]
            for _ in in_order(pool, lambda task: work(*task), tasks, config.connections):
                progress.advance()
        complete = _sum_up(config.output, plan, names)
        if client.repeated:
            print(f"crawl: repeated requests: {_listed(client.repeated)}")
        write_json(config.output / COMPLETE, complete)
    return complete


def _names(plan: Plan) -> list[str]:
    if not plan.files:
        return [f"part-{number:05d}" for number in range(plan.parts)]
    # the suffix of extracted text, `.warc.wet.gz`, is none that the kind `warc` looks for
    return [os.path.basename(path).removesuffix(".gz").replace(".warc", "") for path in plan.files]


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    with room_for(root / ".lock"):
        root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{root}: another process is fetching into this folder; wait for it") from None
        yield


def _is_done(root: Path, name: str, plan: Plan) -> bool:
    """Return whether a part has been fetched and its file is there."""
    try:
        record = _read(root / f"{name}.json")
    except (FileNotFoundError, ValueError):
        return False
    path = root / f"{name}.warc.gz"
    is_there = path.stat().st_size == record["bytes"] if path.is_file() else record["bytes"] == 0
    return is_there and record["plan"] == plan.digest


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


# -- captures


def _fetch_part(client: PoliteClient, config: CrawlConfig, plan: Plan, number: int, name: str) -> None:
    members: list[bytes] = []
    left_out: list[dict[str, Any]] = []
    counts: Counter[str] = Counter(captures=0, fetched=0)
    for some in requests_of(plan.part(number)):
        for capture, result in zip(some, _fetch(client, config, some), strict=True):
            counts["captures"] += 1
            if isinstance(result, LeftOut):
                counts[f"left_out:{result.reason}"] += 1
                about = {"url": capture.url, "file": capture.file, "offset": capture.offset, "length": capture.length}
                left_out.append({**about, "reason": result.reason, "detail": result.detail})
            else:
                counts["fetched"] += 1
                members.append(result)
    digests: dict[Path, str] = {}
    path = config.output / f"{name}.warc.gz"
    path.unlink(missing_ok=True)  # of a process that was killed before it wrote the record
    if members:
        with whole_file(path, digests=digests) as partial, room_for(path), open(partial, "wb") as file:
            file.writelines(members)
    _commit(config.output, name, plan, sum(map(len, members)), digests.get(path), counts, left_out)


def _commit(
    root: Path,
    name: str,
    plan: Plan,
    size: int,
    sha256: str | None,
    counts: Mapping[str, int],
    left_out: Sequence[Mapping[str, Any]] = (),
) -> None:
    record = {"plan": plan.digest, "bytes": size, "sha256": sha256, "counts": dict(sorted(counts.items()))}
    write_json(root / f"{name}.json", {**record, "left_out": list(left_out)})


def requests_of(captures: Sequence[Capture]) -> Iterator[list[Capture]]:
    """Divide captures, given in the order of the archives, into those that one request fetches."""
    some: list[Capture] = []
    stop = 0
    for capture in captures:
        is_near = some and capture.file == some[0].file and 0 <= capture.offset - stop <= _GAP_BYTES
        if some and not (is_near and capture.offset + capture.length - some[0].offset <= _REQUEST_BYTES):
            yield some
            some = []
        some.append(capture)
        stop = capture.offset + capture.length
    if some:
        yield some


def _fetch(client: PoliteClient, config: CrawlConfig, captures: Sequence[Capture]) -> Iterator[bytes | LeftOut]:
    """Yield the member of each capture, all of which one request fetches, or why there is none."""
    start, stop = captures[0].offset, captures[-1].offset + captures[-1].length
    address = f"{config.data_address}/{captures[0].file}"
    try:
        content, _, _ = client.get_range(address, start, stop)
    except NotThereError as error:
        if len(captures) == 1:
            yield LeftOut("not_there", str(error))
        else:
            for capture in captures:
                yield from _fetch(client, config, [capture])
        return
    for capture in captures:
        member = content[capture.offset - start : capture.offset - start + capture.length]
        wrong = fault_of(member, capture)
        for _ in range(_DAMAGED_ATTEMPTS - 1):
            if wrong is None:
                break
            client.repeated[wrong.reason] += 1
            with contextlib.suppress(NotThereError):
                member, _, _ = client.get_range(address, capture.offset, capture.offset + capture.length)
                wrong = fault_of(member, capture)
        yield member if wrong is None else wrong


def fault_of(member: bytes, capture: Capture) -> LeftOut | None:
    """Return what is wrong with the bytes of a capture; None: they are one whole gzip member with its record."""
    if len(member) != capture.length:
        return LeftOut("beyond_the_file", f"the file ends after {len(member):,} of {capture.length:,} bytes")
    unpacker = zlib.decompressobj(31)
    head, rest = bytearray(), member
    try:
        while not unpacker.eof:
            block = unpacker.decompress(rest, 1 << 20)
            head += block[: max(0, LONGEST_HEADER - len(head))]
            rest = unpacker.unconsumed_tail
            if not block and not rest:
                break
    except zlib.error as error:
        return LeftOut("damaged_record", str(error))
    if not unpacker.eof:
        return LeftOut("damaged_record", "the gzip member ends after the range")
    if unpacker.unused_data:
        return LeftOut("damaged_record", f"the gzip member ends {len(unpacker.unused_data):,} bytes before the range")
    if not head.startswith(MAGIC):
        return LeftOut("no_record", f"begins with {bytes(head[:20])!r}")
    found = headers_of(bytes(head).split(b"\r\n\r\n", 1)[0]).get("warc-target-uri", "").strip("<>")
    if found != capture.url:
        return LeftOut("other_record", f"the record there is of {found[:200]!r}")
    return None


# -- whole files


def _fetch_file(client: PoliteClient, config: CrawlConfig, plan: Plan, number: int, name: str) -> None:
    path = config.output / f"{name}.warc.gz"
    counts: Counter[str] = Counter(files=1)
    try:
        download(client, f"{config.data_address}/{plan.files[number]}", path)
    except NotThereError as error:
        left_out = [{"file": plan.files[number], "reason": "not_there", "detail": str(error)}]
        _commit(config.output, name, plan, 0, None, {**counts, "left_out:not_there": 1}, left_out)
        return
    _commit(config.output, name, plan, path.stat().st_size, sha256_file(path), {**counts, "fetched": 1})


# -- all of it


def _sum_up(root: Path, plan: Plan, names: Sequence[str]) -> dict[str, Any]:
    """Add up the records of all parts, and check that what was planned is fetched or left out.

    Raises:
        CrawlError: nothing could be fetched.
    """
    counts: Counter[str] = Counter()
    size, first = 0, None
    for name in names:
        record = _read(root / f"{name}.json")
        counts.update(record["counts"])
        size += record["bytes"]
        first = first or next(iter(record["left_out"]), None)
    planned = len(plan.files) or len(plan.captures)
    left_out = {key.removeprefix("left_out:"): n for key, n in sorted(counts.items()) if key.startswith("left_out:")}
    assert planned == counts["fetched"] + sum(left_out.values())
    if not counts["fetched"]:
        raise CrawlError(f"none of {planned:,} could be fetched: {_listed(left_out)}; the first: {first}")
    return {
        "plan": plan.digest,
        "planned": planned,
        "fetched": counts["fetched"],
        "bytes": size,
        "left_out": left_out,
        "left_out_by_the_plan": dict(plan.left_out),
    }


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))
