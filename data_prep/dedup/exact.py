"""Exact duplicates: documents with the same bytes."""

from __future__ import annotations

import numpy as np

from data_prep.dedup.preference import preferences
from data_prep.dedup.records import COPIES, EXACT, HASHES, PAIRS
from data_prep.dedup.signatures import read_hashes
from data_prep.dedup.work import Unit
from data_prep.run.shuffle import grouped, hash_bounds


def spread_hashes(unit: Unit) -> None:
    """Spread the hashes of a bundle, and write what is known of its documents."""
    work = unit.work
    with (
        unit.scratch_file("signed") as path,
        open(path, "wb") as file,
        unit.spread("hashes", HASHES, hash_bounds(work.plan.hash_ranges)) as hashes,
    ):
        for shard, start, stop in work.shards_of(unit.number):
            signed, values = read_hashes(work.config, work.stage.run, shard)
            file.write(signed.tobytes())
            documents = np.arange(start, stop, dtype=np.int64)
            hashes.add(values[:, 0], values[:, 1], preferences(signed, work.has_containment), documents)


def find_copies(unit: Unit) -> None:
    """Find the documents with equal hashes in a range; the preferred one is the first, the others are its copies."""
    work = unit.work
    blocks = work.collect([("hashes", work.plan.bundle_count)], HASHES, work.plan.hash_ranges, unit.number)
    with (
        unit.spread_by_bundle("copies", COPIES) as copies,
        unit.spread_by_bundle("exact_pairs", PAIRS) as pairs,
    ):
        before = np.int64(0)
        for groups in grouped(blocks, ("low", "high"), work.most_in_group(HASHES)):
            documents = groups.records["document"]
            firsts = documents[groups.starts[:-1]]
            if groups.continues:
                firsts[0] = before
            before = firsts[-1]
            first = np.repeat(firsts, groups.sizes)
            is_copy = first != documents
            gone, kept = documents[is_copy], first[is_copy]
            ones = np.ones(len(gone))
            copies.add(gone, kept)
            pairs.add(kept, gone, ones, ones, np.full(len(gone), EXACT, np.uint8))
