"""Input files of a source: placeholders, folders and patterns become a sorted list with sizes and digests."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.config import SourceConfig
from data_prep.crawl.state import refuse_incomplete
from data_prep.sources import reader_of
from data_prep.sources.compression import refuse_other_compression
from data_prep.sources.storage import (
    NoObjectError,
    RemoteObject,
    list_objects,
    pinned,
    remote_object,
    scheme_of,
    without_revision,
)
from foundation.atomic_files import sha256_file

PLACEHOLDERS = {"python_library": "stdlib", "site_packages": "purelib"}
"""Placeholders in paths (`{name}`), and sysconfig's names for these folders of the running Python."""

_NEVER_ENTERED = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
"""Folders that a search skips: in many installations the packages are inside Python's own library."""


@dataclass(frozen=True)
class InputFile:
    """Raw file as it was when it was frozen.

    Attributes:
        path: path, or address of an object.
        sha256: digest of the content; of an object the word `tag` and its entity tag, see `storage`.
    """

    path: str
    size: int
    sha256: str

    @property
    def is_object(self) -> bool:
        return scheme_of(self.path) is not None


@dataclass(frozen=True)
class SourceFiles:
    """Raw files of one source, and counts of those left out."""

    name: str
    kind: str
    files: tuple[InputFile, ...]
    missing: tuple[str, ...] = ()
    """Configured paths that match nothing on this machine."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Number of files in searched folders that this kind of source does not read, by suffix or as `(broken link)`."""
    left_out_files: int = 0
    """Number of files beyond `largest_files` and `maximum_bytes`."""
    left_out_bytes: int = 0

    @property
    def raw_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SourceFiles:
        return cls(
            **{
                **value,
                "files": tuple(InputFile(**file) for file in value["files"]),
                "missing": tuple(value["missing"]),
            }
        )


def resolve(pattern: str) -> str:
    """Replace `{python_library}` and `{site_packages}` by folders of the running Python, and `~` by the home folder.

    Raises:
        ValueError: unknown placeholder.
    """

    def folder(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in PLACEHOLDERS:
            known = ", ".join("{" + known + "}" for known in PLACEHOLDERS)
            raise ValueError(f"path {pattern!r}: unknown placeholder {{{name}}}; known are {known}")
        return sysconfig.get_path(PLACEHOLDERS[name])

    return os.path.expanduser(re.sub(r"\{(\w+)\}", folder, pattern))


def find_inputs(source: SourceConfig, seed: int) -> SourceFiles:
    """List the files of one source, sorted by path, up to its limit; digests are left empty, see `with_digests`.

    Folders are searched recursively for files that this kind of source reads. Symbolic links to folders are not
    followed, and a linked file counts once, under its real path. Files and patterns are taken as given. With
    `largest_files`, only so many are considered. With `maximum_bytes`, files are chosen in the order of a hash of their
    path below the configured folder and the seed, until the next would not fit.

    Raises:
        ValueError: a file exists but cannot be read, or a crawl into a folder is not complete; a corpus without it
            would be another corpus.
    """
    accepts = reader_of(source.kind).accepts
    names: dict[str, str] = {}  # real path -> the path below its root, which does not depend on where the root is
    objects: dict[str, RemoteObject] = {}
    missing: list[str] = []
    skipped: dict[str, int] = {}
    for pattern in source.paths:
        if scheme_of(pattern) is not None:
            found = list(_find_objects(pattern, accepts, skipped))
            objects.update({entry.path: entry for entry in found})
            names.update({entry.path: entry.path for entry in found})
            if not found:
                missing.append(pattern)
            continue
        resolved = resolve(pattern)
        before = len(names)
        roots = sorted(glob.glob(resolved, recursive=True)) if glob.has_magic(resolved) else [resolved]
        base = os.path.dirname(resolved[: re.search(r"[*?\[]", resolved).start()]) if glob.has_magic(resolved) else ""  # type: ignore[union-attr]
        for root in roots:
            if os.path.isdir(root):
                if glob.has_magic(resolved) and "**" in resolved:
                    continue  # `**` also matches folders, whose files match themselves
                refuse_incomplete(Path(root))
                for path in _walk(root):
                    if accepts(path):
                        names.setdefault(os.path.realpath(path), os.path.relpath(path, root))
                    else:
                        suffix = os.path.splitext(path)[1].lower() or "(none)"
                        skipped[suffix] = skipped.get(suffix, 0) + 1
            elif os.path.isfile(root):
                if not accepts(root):
                    refuse_other_compression(root)
                names.setdefault(os.path.realpath(root), os.path.relpath(root, base or os.path.dirname(root)))
        if len(names) == before and not any(os.path.exists(root) for root in roots):
            missing.append(pattern)

    for pattern in source.exclude:
        is_excluded = _matcher(pattern)
        left_out = [path for path in names if is_excluded(path)]
        for path in left_out:
            del names[path]
        if left_out:
            skipped["(excluded)"] = skipped.get("(excluded)", 0) + len(left_out)
        else:
            missing.append(f"exclude {pattern}")
    sizes = {
        path: objects[path].size if path in objects else os.path.getsize(path)
        for path in sorted(names)
        if path in objects or os.path.isfile(path)
    }
    if len(sizes) < len(names):
        skipped["(broken link)"] = len(names) - len(sizes)
    forbidden = [path for path in sizes if path not in objects and not os.access(path, os.R_OK)]
    if forbidden:
        more = f", nor may {len(forbidden) - 1} other files of this source" if len(forbidden) > 1 else ""
        raise ValueError(
            f"{forbidden[0]}: this user may not read it{more}; change its permissions, or leave it out of the `paths` "
            f"of source {source.name}"
        )
    considered = sizes
    if source.largest_files is not None:
        largest = sorted(sizes, key=lambda path: (-sizes[path], names[path]))[: source.largest_files]
        considered = {path: sizes[path] for path in sorted(largest)}
    chosen = list(considered)
    if source.maximum_bytes is not None:
        chosen = _choose(considered, names, source.maximum_bytes, f"{seed}:{source.name}")
    tags = {path: f"tag {entry.tag}" for path, entry in objects.items()}
    files = tuple(InputFile(path, sizes[path], tags.get(path, "")) for path in chosen)
    return SourceFiles(
        name=source.name,
        kind=source.kind,
        files=files,
        missing=tuple(missing),
        skipped=dict(sorted(skipped.items())),
        left_out_files=len(sizes) - len(files),
        left_out_bytes=sum(sizes.values()) - sum(file.size for file in files),
    )


def _find_objects(pattern: str, accepts: Callable[[str], bool], skipped: dict[str, int]) -> Iterator[RemoteObject]:
    """Yield the object of an address, those of a folder (an address that ends in `/`), or of a pattern."""
    try:
        pattern = pinned(pattern)
    except NoObjectError:
        return
    if not glob.has_magic(pattern):
        if not pattern.endswith("/"):
            with contextlib.suppress(NoObjectError):
                yield remote_object(pattern)
            return
        for entry in list_objects(pattern):
            if accepts(entry.path):
                yield entry
            else:
                suffix = os.path.splitext(entry.path)[1].lower() or "(none)"
                skipped[suffix] = skipped.get(suffix, 0) + 1
        return
    matches = re.compile(_glob_expression(pattern)).fullmatch
    yield from (entry for entry in list_objects(re.split(r"[*?\[]", pattern)[0]) if matches(entry.path))


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a path is the one of a pattern, matches it, or is in a folder that does."""
    resolved = without_revision(pattern) if scheme_of(pattern) is not None else os.path.realpath(resolve(pattern))
    expression = re.compile(_glob_expression(resolved.rstrip("/")) + "(?:/.*)?")
    return lambda path: expression.fullmatch(without_revision(path)) is not None


def _glob_expression(pattern: str) -> str:
    """Translate a glob pattern: `*` and `?` stay within a folder, `**/` matches any folders."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]*\])", pattern)
    special = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}

    def translated(part: str) -> str:
        return part.replace("[!", "[^") if part.startswith("[") else special.get(part, re.escape(part))

    return "".join(map(translated, parts))


def with_digests(source: SourceFiles, advance: Callable[[int], None], threads: int = 1) -> SourceFiles:
    """Add the digest of each file; `advance` is called with the bytes read.

    Raises:
        ValueError: a file cannot be read to its end.
    """
    files = []
    with ThreadPoolExecutor(threads) as pool:  # hashing releases the GIL
        # the store has computed the tag of an object: reading terabytes from it only to hash them would double the cost
        digests = pool.map(lambda file: file.sha256 if file.is_object else _sha256(file), source.files)
        for file, sha256 in zip(source.files, digests, strict=True):
            files.append(replace(file, sha256=sha256))
            advance(file.size)
    return replace(source, files=tuple(files))


def _sha256(file: InputFile) -> str:
    try:
        return sha256_file(Path(file.path))
    except OSError as error:
        raise ValueError(
            f"{file.path}: cannot be read ({error.strerror or error}); repair it, or leave it out of `paths`"
        ) from error


def _walk(root: str) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _NEVER_ENTERED and not name.startswith("."))
        yield from (os.path.join(folder, name) for name in sorted(files))


def _choose(sizes: Mapping[str, int], names: Mapping[str, str], maximum_bytes: int, salt: str) -> list[str]:
    def lot(path: str) -> bytes:
        return hashlib.sha256(f"{salt}:{names[path]}".encode("utf-8", "surrogateescape")).digest()

    chosen: list[str] = []
    total = 0
    for path in sorted(sizes, key=lambda path: (lot(path), path)):
        if total + sizes[path] > maximum_bytes:
            break
        chosen.append(path)
        total += sizes[path]
    return sorted(chosen)


def current_tag(file: InputFile) -> str | None:
    """Return the tag that an object has now, in the form of `sha256`; None if it does not exist."""
    try:
        return f"tag {remote_object(file.path).tag}"
    except NoObjectError:
        return None


def stamp_of(path: str) -> list[int] | None:
    """Return size and times in nanoseconds, which change when a file is written; None if it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def is_unchanged(file: InputFile) -> bool:
    """Read a file again and compare its digest."""
    return _sha256(file) == file.sha256
