"""Records that units of deduplication leave for each other."""

from __future__ import annotations

import numpy as np

from data_prep.run.shuffle import RecordType

HASHES = RecordType((("low", "<u8"), ("high", "<u8"), ("preference", "<u8"), ("document", "<i8")), 3)
"""128-bit hash of a document, and its `preference`."""
COPIES = RecordType((("document", "<i8"), ("first", "<i8")))
"""An exact copy, and the preferred document with the same bytes."""
BANDS = RecordType((("key", "<u8"), ("document", "<i8")))
"""Hash of a band of a document."""
SAMPLES = RecordType((("key", "<u8"), ("preference", "<u8"), ("document", "<i8"), ("asks", "?")), 2)
"""Sampled shingle of a document, and whether it is one of its anchors."""
ANCHOR_PAIRS = RecordType((("inner", "<i8"), ("outer", "<i8")), 2)
"""An anchor of `inner` that `outer` shares; an `outer` of -1: an anchor of `inner` that too many share."""
ENTRIES = RecordType((("document", "<i8"), ("bucket", "<i8")))
"""Document of a bucket; buckets are numbered by the unit that found them."""
EDGES = RecordType((("first", "<i8"), ("other", "<i8")))
"""Two documents of a bucket; the edges of a bucket link all of its documents."""
BATCHES = RecordType((("document", "<i8"), ("batch", "<i8")))
"""Batch of a candidate."""
MEMBERS = RecordType(
    (
        ("batch", "<i8"),
        ("document", "<i8"),
        ("preference", "<u8"),
        ("row", "<i8"),
        ("start", "<i8"),
        ("shingle_count", "<i8"),
    )
)
"""Candidate of a batch: in the files of its bundle, the row of its signature and the place of its first shingle."""
BATCH_ENTRIES = RecordType((("batch", "<i8"), ("document", "<i8"), ("bucket", "<i8")))
_EVIDENCE = (("jaccard", "<f8"), ("containment", "<f8"), ("kind", "u1"))
PAIRS = RecordType((("kept", "<i8"), ("gone", "<i8"), *_EVIDENCE), 2)
"""A kept and a removed document, and how similar they are."""
REMOVALS = RecordType((("document", "<i8"), ("duplicate_of", "<i8"), *_EVIDENCE))
"""A removed document, and the kept one that it is a copy of."""
PAGES = RecordType((("domain", "<u8"), ("rank", "<u8"), ("text", "<u8"), ("document", "<i8")), 3)
"""Hash of a registered domain, keyed hash of a page's address, and half of the hash of its text."""
OVER = RecordType((("document", "<i8"), ("place", "<i8")))
"""A page of a domain that has too many, and its place among them."""
LINES = RecordType((("key", "<u8"), ("document", "<i8"), ("line", "<i8")))
"""Hash of a line, and its number among the lines of its bundle."""
REPEATS = RecordType((("document", "<i8"), ("line", "<i8")))
"""A line to be cut."""

ASKS = RecordType((("document", "<i8"), ("sentence", "<i8"), ("other", "<i8"), ("other_sentence", "<i8")), 4)
"""A sentence that is to be compared with a later one, `other`."""
_SENTENCE_PAIR = (("document", "<i8"), ("sentence", "<i8"), ("first", "<i8"), ("first_sentence", "<i8"))
SENTENCE_PAIRS = RecordType((*_SENTENCE_PAIR, ("pair", "<u8")), 5)
"""A pair of tokens of an earlier sentence, `first`."""
SENTENCE_EDGES = RecordType(_SENTENCE_PAIR, 4)
"""A sentence that is similar to an earlier one."""
SENTENCES = RecordType((("document", "<i8"), ("sentence", "<i8")), 2)
"""A sentence that is cut."""

SIGNED = np.dtype([("fails_rules", "?"), ("arrival", "<u2"), ("shingle_count", "<i8")])
"""What is known of each document of a bundle."""

KINDS = ("exact", "near", "contained")
EXACT, NEAR, CONTAINED = range(len(KINDS))
