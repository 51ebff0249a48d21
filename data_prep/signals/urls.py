"""Lists of web addresses: domains and pages that are not wanted, or that alone are, and words in the names of hosts.

Block lists are files with an entry per line, or folders in the layout of UT1 (Université Toulouse Capitole), which has
`CATEGORY/domains` and `CATEGORY/urls`. Words in hosts are judged as for RefinedWeb (Penedo et al. 2023,
arXiv:2306.01116, appendix G.1): some anywhere in a name, some as whole words, some only if there are two.
"""

from __future__ import annotations

import mmap
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, urlsplit

import numpy as np
import numpy.typing as npt

from foundation.atomic_files import sha256_file

if TYPE_CHECKING:
    from data_prep.config import UrlConfig

_WORD_LISTS = ("subwords", "words", "soft_words")
_UT1_FILES = ("domains", "urls")
_SCHEME = re.compile(rb"^[a-z][a-z0-9+.-]*://")
_WORD = re.compile(r"[^\W\d_]+")


class UrlMatches(NamedTuple):
    """What the lists say of an address; all zero for documents without one."""

    blocked: int
    """Entries of block lists."""
    allowed: int
    """Entries of allow lists."""
    words: int
    """Different words that must not occur."""
    soft_words: int
    """Different words of which one may occur."""
    evidence: tuple[str, ...]
    """Each match with its list: `adult: example.com`."""


_NOTHING = UrlMatches(0, 0, 0, 0, ())


class UrlLists:
    """The lists that the configuration names.

    Raises:
        ValueError: a list cannot be used; names the setting, the file and the line.
    """

    def __init__(self, config: UrlConfig) -> None:
        self._block = _Entries(list_files(config.block, "urls.block", config.categories))
        self._allow = _Entries(list_files(config.allow, "urls.allow", ()))
        self._subwords = _words(config.subwords, "urls.subwords")
        self._words = _words(config.words, "urls.words")
        self._soft_words = _words(config.soft_words, "urls.soft_words")

    def match(self, url: str | None) -> UrlMatches:
        """Compare one address with all lists."""
        parts = _split(url)
        if parts is None:
            return _NOTHING
        host = (parts.hostname or "").rstrip(".")
        keys = list(_keys(_host(parts), parts))
        blocked, allowed = self._block.matches(keys), self._allow.matches(keys)
        name = _in_letters(host)
        whole = set(_WORD.findall(name))
        words = sorted({word for word in self._subwords if word in name} | (whole & self._words))
        soft_words = sorted(whole & self._soft_words)
        return UrlMatches(
            len(blocked),
            len(allowed),
            len(words),
            len(soft_words),
            (*blocked, *allowed, *(f"word: {word}" for word in words), *(f"soft word: {word}" for word in soft_words)),
        )


def list_files(paths: Sequence[Path], setting: str, categories: Sequence[str]) -> list[tuple[str, Path, str]]:
    """Return the name of each list, its file, and the setting that names it, in the order of the paths and by name.

    Raises:
        ValueError: a path does not exist, a folder has no list, or there is no such category.
    """
    found: list[tuple[str, Path, str]] = []
    for path in (path.expanduser() for path in paths):
        if path.is_file():
            found.append((path.stem, path, setting))
            continue
        if not path.is_dir():
            raise ValueError(f"{setting}: {path}: no such file or folder")
        files = [path / name for name in _UT1_FILES] + sorted(path.glob("*/domains")) + sorted(path.glob("*/urls"))
        lists = [(file.parent.name, file, setting) for file in files if file.is_file()]
        if not lists:
            raise ValueError(
                f"{setting}: {path}: has neither CATEGORY/domains nor CATEGORY/urls, as UT1's folders have"
            )
        found += lists
    names = {name for name, _, _ in found}
    unknown = sorted(set(categories) - names)
    if unknown:
        raise ValueError(f"urls.categories: no list is called {unknown[0]!r}; they are {', '.join(sorted(names))}")
    return [one for one in found if not categories or one[0] in categories]


def digests(config: UrlConfig) -> list[list[str]]:
    """Return setting, name and SHA-256 of each list, which outputs depend on.

    Raises:
        ValueError: see `list_files`.
    """
    lists = list_files(config.block, "urls.block", config.categories) + list_files(config.allow, "urls.allow", ())
    for name in _WORD_LISTS:
        path = getattr(config, name)
        lists += list_files([path] if path else [], f"urls.{name}", ())
    return [[setting, name, sha256_file(path)] for name, path, setting in lists]


class _Entries:
    """Domains and pages of some lists: UT1's adult domains alone are millions.

    Memory is 18 bytes an entry, and the files, which are mapped; a key is found by a hash and compared with its line.
    """

    def __init__(self, lists: Sequence[tuple[str, Path, str]]) -> None:
        self._names = [name for name, _, _ in lists]
        self._files: list[mmap.mmap] = []
        hashes, starts, owners = array("q"), array("q"), array("H")
        for owner, (_, path, setting) in enumerate(lists):
            before = len(hashes)
            if path.stat().st_size:
                with open(path, "rb") as file:
                    self._files.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                start = 0
                for number, line in enumerate(iter(self._files[-1].readline, b""), 1):
                    entry = entry_of(line)
                    if len(entry.split()) > 1:
                        shown = line[:80].decode("utf-8", "backslashreplace").strip()
                        raise ValueError(f"{setting}: {path}:{number}: {shown!r} is no domain and no address")
                    if entry:
                        hashes.append(hash(entry))
                        starts.append(start)
                        owners.append(owner)
                    start += len(line)
            if len(hashes) == before:
                raise ValueError(f"{setting}: {path}: has no entry; one domain or address per line")
        order = np.argsort(np.array(hashes, np.int64), kind="stable")
        self._hashes: npt.NDArray[np.int64] = np.array(hashes, np.int64)[order]
        self._starts: npt.NDArray[np.int64] = np.array(starts, np.int64)[order]
        self._owners: npt.NDArray[np.uint16] = np.array(owners, np.uint16)[order]

    def matches(self, keys: Sequence[bytes]) -> list[str]:
        """Return the keys that are in a list, each once for each list, with the list's name."""
        if not self._names:
            return []
        wanted = np.array([hash(key) for key in keys], np.int64)
        firsts = np.searchsorted(self._hashes, wanted, "left").tolist()
        lasts = np.searchsorted(self._hashes, wanted, "right").tolist()
        found = {
            f"{self._names[self._owners[place]]}: {key.decode('utf-8', 'backslashreplace')}": None
            for key, first, last in zip(keys, firsts, lasts, strict=True)
            for place in range(first, last)
            if self._entry(place) == key
        }
        return list(found)

    def _entry(self, place: int) -> bytes:
        content, start = self._files[self._owners[place]], int(self._starts[place])
        stop = content.find(b"\n", start)
        return entry_of(content[start : stop if stop >= 0 else len(content)])


def entry_of(line: bytes) -> bytes:
    """Return a line without comment, scheme, `www.` and final slash or dot, in lower case, the domain in ASCII."""
    entry = _SCHEME.sub(b"", line.partition(b"#")[0].strip().lower()).rstrip(b"/.")
    host, slash, rest = entry.partition(b"/")
    if not host.isascii():
        host = _in_ascii(host.decode("utf-8", "replace")).encode("utf-8", "replace")
    return _without_www(host) + slash + rest


def keys_of(url: str | None) -> list[bytes]:
    """Return what an entry for an address may be; nothing for anything but a web address."""
    parts = _split(url)
    return [] if parts is None else list(_keys(_host(parts), parts))


def host_of(url: str | None) -> str | None:
    """Return the host of a web address as name servers know it; None for anything else."""
    parts = _split(url)
    return None if parts is None else _host(parts).decode("utf-8", "replace")


def _host(parts: SplitResult) -> bytes:
    return _in_ascii((parts.hostname or "").rstrip(".")).encode("utf-8", "replace")


def _keys(host: bytes, parts: SplitResult) -> Iterator[bytes]:
    """Yield what an entry for this address may be: the host, each domain it is in, and the page with each folder."""
    own = _without_www(host)
    labels = own.split(b".")
    if not all(label.isdigit() for label in labels):  # an address in numbers is in no domain
        yield from (b".".join(labels[k:]) for k in range(1, len(labels)))
    yield own
    path = parts.path.lower().rstrip("/").encode("utf-8", "replace")
    steps = path.split(b"/")[1:]
    yield from (own + b"/" + b"/".join(steps[:k]) for k in range(1, len(steps) + 1))
    if parts.query:
        yield own + path + b"?" + parts.query.lower().encode("utf-8", "replace")


def _split(url: str | None) -> SplitResult | None:
    """Divide a web address; None for anything else."""
    try:
        parts = urlsplit(url or "")
        return parts if parts.scheme in ("http", "https") and parts.hostname else None
    except ValueError:  # such as half a bracket
        return None


def _in_ascii(host: str) -> str:
    """Return the name of a host as name servers know it: `xn--bcher-kva` for `bücher`."""
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:  # no name of a host
        return host


def _in_letters(host: str) -> str:
    """Return the name of a host as people read it."""
    try:
        return host.encode("ascii").decode("idna") if "xn--" in host else host
    except UnicodeError:
        return host


def _without_www(host: bytes) -> bytes:
    """`www.com` is a domain of its own, and not all of `com`."""
    return host.removeprefix(b"www.") if host.count(b".") > 1 else host


def _words(path: Path | None, setting: str) -> frozenset[str]:
    if path is None:
        return frozenset()
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{setting}: {path}: {error}") from None
    words = {}
    for number, line in enumerate(lines, 1):
        word = line.partition("#")[0].strip().lower()
        if word and not _WORD.fullmatch(word):
            raise ValueError(f"{setting}: {path}:{number}: {word!r} is not one word of letters")
        if word:
            words[word] = number
    if not words:
        raise ValueError(f"{setting}: {path}: has no word; one per line")
    return frozenset(words)
