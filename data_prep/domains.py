"""Registered domains, such as `example.co.uk`, and the choice of some pages of each.

The pages of a domain that are kept are those with the smallest keyed hashes of their addresses: the same ones whatever
the order, the machines and the other pages.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import xxhash

from foundation.atomic_files import sha256_file


@lru_cache(maxsize=1)
def _suffixes() -> Any:
    try:
        from publicsuffixlist import PublicSuffixList
    except ImportError:
        raise ValueError(
            "urls.pages_per_domain: registered domains need publicsuffixlist: pip install 'altiplano[data]'"
        ) from None
    # of registries only: `github.io` is a domain that somebody has registered
    return PublicSuffixList(only_icann=True)


def suffix_digest() -> str:
    """Return a digest of the list of suffixes, which domains depend on."""
    _suffixes()
    import publicsuffixlist

    return sha256_file(Path(publicsuffixlist.__file__).with_name("public_suffix_list.dat"))


@lru_cache(maxsize=1 << 16)
def registered_domain(host: str) -> str:
    """Return the registered domain of a host, given in lower case; the host itself where it has none, such as a number
    or a single name."""
    try:
        ipaddress.ip_address(host.strip("[]"))
        return host
    except ValueError:
        return _suffixes().privatesuffix(host) or host


def rank_of(address: str, seed: int) -> int:
    """Return the keyed hash of an address, of 64 bits."""
    return xxhash.xxh3_64_intdigest(address.encode("utf-8", "surrogatepass"), seed & 0xFFFFFFFFFFFFFFFF)


def smallest_by_domain(domains: Sequence[str], addresses: Sequence[str], most: int, seed: int) -> list[int]:
    """Return the rows of at most `most` pages of each domain, in order; equal addresses count by their order."""
    by_domain: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row, (domain, address) in enumerate(zip(domains, addresses, strict=True)):
        by_domain[domain].append((rank_of(address, seed), row))
    return sorted(row for ranked in by_domain.values() for _, row in sorted(ranked)[:most])
