"""Search for personal data in a text, as spans of bytes.

Found: e-mail addresses, public IPv4 and IPv6 addresses, phone numbers, payment cards (Luhn), IBANs (mod 97), and keys
of known form or after a name such as `api_key`; user names, where a source asks for them (`user_names`). Plain numbers
are kept, as BigScience decided because of false positives (Laurençon et al. 2022, arXiv:2303.03915), whose placeholders
are used: `PI:EMAIL`, `PI:IP_ADDRESS`, `PI:KEY`, `PI:USER`. Versions, dates, identifiers of messages, logins and names
of algorithms are not personal data; docs/personal_data.md describes the rules and their accuracy.

A span is half-open and counts bytes of the UTF-8 text. Spans of one text are in order and do not overlap: overlapping
ones are merged, with the kind of the one that begins first, or of the longer of two that begin together.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from data_prep.signals.pii import addresses, candidates, keys, numbers
from data_prep.signals.pii.spans import KINDS, PLACEHOLDER, Span, is_character_bound, merge, redact
from data_prep.signals.pii.user_names import find_user_names

__all__ = (
    "KINDS",
    "PLACEHOLDER",
    "Span",
    "find_pii",
    "find_pii_in_documents",
    "is_character_bound",
    "merge",
    "redact",
)

_JUDGES = {
    candidates.AT_SIGN: addresses.email,
    candidates.DOTTED_NUMBERS: addresses.ipv4,
    candidates.COLONS: addresses.ipv6,
    candidates.ACCOUNT: numbers.iban,
    candidates.TOKEN: keys.key,
    candidates.DASHES: keys.private_key,
}


def find_pii_in_documents(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], with_user_names: bool = False
) -> list[list[Span]]:
    """Find spans in each document, relative to its first byte; documents are concatenated as in an Arrow string
    column."""
    kinds, positions, bounds = candidates.find_candidates(data, offsets)
    found: list[list[Span]] = [[] for _ in range(len(offsets) - 1)]
    for d in np.flatnonzero(np.diff(bounds)).tolist():
        start = int(offsets[d])
        text = data[start : int(offsets[d + 1])].tobytes()
        first, last = int(bounds[d]), int(bounds[d + 1])
        spans: list[Span] = []
        for kind, position in zip(kinds[first:last].tolist(), positions[first:last].tolist(), strict=True):
            if kind == candidates.DIGITS:
                spans += numbers.cards_and_phones(text, position - start)
            elif (span := _JUDGES[kind](text, position - start)) is not None:
                spans.append(span)
        if spans:
            found[d] = merge(spans)
    if with_user_names:
        for d, (start, stop) in enumerate(pairwise(offsets.tolist())):
            if names := find_user_names(data[start:stop].tobytes()):
                found[d] = merge([*found[d], *names])
    return found


def find_pii(text: str) -> list[Span]:
    """Find spans in one text."""
    data = text.encode()
    return find_pii_in_documents(np.frombuffer(data, dtype=np.uint8), np.array([0, len(data)], dtype=np.int64))[0]
