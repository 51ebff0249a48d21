"""Pages of a registered domain beyond `urls.pages_per_domain`.

Only documents count that pass their rules and are no duplicates. Those of a domain are ranked by the keyed hashes of
their addresses, equal addresses by the hashes of their texts: so the same ones are kept whatever the order in which a
corpus grew and however it is divided.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from data_prep.dedup.evidence import document_id
from data_prep.dedup.left import left_after_removals
from data_prep.dedup.records import OVER, PAGES
from data_prep.dedup.signatures import read_hashes
from data_prep.dedup.work import Unit, Work
from data_prep.domains import rank_of, registered_domain
from data_prep.run.documents import read_columns
from data_prep.run.shuffle import Grouped, Records, grouped, hash_bounds, joined
from data_prep.signals.urls import host_of

OVER_COLUMNS = pa.schema([("id", pa.string()), ("place", pa.int64())])
"""Columns of the documents that are too many, in the order of the corpus: `place` is that among the pages of the
domain, from 1."""


def spread_pages(unit: Unit) -> None:
    """Spread the pages of a bundle that are left, by domain."""
    work = unit.work
    left = left_after_removals(work, unit.number)
    first, _ = work.plan.documents_of(unit.number)
    with unit.spread("pages", PAGES, hash_bounds(work.plan.domain_ranges)) as pages:
        for shard, start, stop in work.shards_of(unit.number):
            if shard.source not in work.capped_sources:
                continue
            rows = np.flatnonzero(left[start - first : stop - first])
            urls = read_columns(work.stage.run.corpus / f"{shard.name}.parquet", ["url"])["url"].take(rows).to_pylist()
            hosts = [host_of(url) for url in urls]
            is_page = np.array([host is not None for host in hosts], bool)
            domains = [registered_domain(host) for host in hosts if host is not None]
            ranks = [rank_of(url, work.config.seed) for url, host in zip(urls, hosts, strict=True) if host is not None]
            rows = rows[is_page]
            _, hashes = read_hashes(work.config, work.stage.run, shard)
            pages.add(
                np.array([xxhash.xxh3_64_intdigest(domain.encode()) for domain in domains], np.uint64),
                np.array(ranks, np.uint64),
                hashes[rows, 0],
                start + rows,
            )


def rank_pages(unit: Unit) -> None:
    """Spread the pages that are too many, of a range of domains."""
    work = unit.work
    blocks = work.collect([("pages", work.plan.bundle_count)], PAGES, work.plan.domain_ranges, unit.number)
    most = work.config.urls.pages_per_domain
    assert most is not None
    with unit.spread_by_bundle("over", OVER) as over:
        for pages, places in ranked(grouped(blocks, ("domain",), work.most_in_group(PAGES))):
            is_over = places > most
            over.add(pages["document"][is_over], places[is_over])


def ranked(blocks: Iterator[Grouped]) -> Iterator[tuple[Records, npt.NDArray[np.int64]]]:
    """Yield pages, given by domain and rank, with their places among those of their domains, from 1."""
    before = 0
    for block in blocks:
        places = np.arange(len(block.records)) - np.repeat(block.starts[:-1], block.sizes) + 1
        if block.continues:
            places[: block.sizes[0]] += before
        yield block.records, places
        before = int(places[-1]) if len(places) else before


def write_over(unit: Unit) -> None:
    """Write the pages of a bundle that are too many, a row group for each shard."""
    work, bundle = unit.work, unit.number
    over = read_over(work, bundle)
    unit.counts["pages_over"] = len(over)
    with (
        unit.output_file(work.part("over", bundle)) as path,
        pq.ParquetWriter(path, OVER_COLUMNS, compression="zstd") as file,
    ):
        for shard, start, stop in work.shards_of(bundle):
            rows = over[slice(*np.searchsorted(over["document"], (start, stop)))]
            if len(rows):
                ids = [document_id(shard.name, row) for row in (rows["document"] - start).tolist()]
                file.write_table(pa.table({"id": ids, "place": rows["place"]}, schema=OVER_COLUMNS))


def read_over(work: Work, bundle: int) -> Records:
    """Return the pages of a bundle that are too many, `OVER`."""
    return joined(work.by_bundle([("over", work.plan.domain_ranges)], OVER, bundle), OVER)
