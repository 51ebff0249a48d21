"""Input files of a source: placeholders, folders and patterns become a sorted list with sizes and digests."""

from __future__ import annotations

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
from data_prep.sources import reader_of
from data_prep.sources.compression import refuse_other_compression
from foundation.atomic_files import sha256_file

PLACEHOLDERS = {"python_library": "stdlib", "site_packages": "purelib"}
"""Placeholders in paths (`{name}`), and sysconfig's names for these folders of the running Python."""

_NEVER_ENTERED = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
"""Folders that a search skips: in many installations the packages are inside Python's own library."""


@dataclass(frozen=True)
class InputFile:
    """Raw file as it was when it was frozen."""

    path: str
    size: int
    sha256: str


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
    """Number of files beyond `maximum_bytes`."""
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
    `maximum_bytes`, files are chosen in the order of a hash of their path below the configured folder and the seed,
    until the next would not fit.

    Raises:
        ValueError: a file exists but cannot be read; a corpus without it would be another corpus.
    """
    accepts = reader_of(source.kind).accepts
    names: dict[str, str] = {}  # real path -> the path below its root, which does not depend on where the root is
    missing: list[str] = []
    skipped: dict[str, int] = {}
    for pattern in source.paths:
        resolved = resolve(pattern)
        before = len(names)
        roots = sorted(glob.glob(resolved, recursive=True)) if glob.has_magic(resolved) else [resolved]
        base = os.path.dirname(resolved[: re.search(r"[*?\[]", resolved).start()]) if glob.has_magic(resolved) else ""  # type: ignore[union-attr]
        for root in roots:
            if os.path.isdir(root):
                if glob.has_magic(resolved) and "**" in resolved:
                    continue  # `**` also matches folders, whose files match themselves
                for path in _walk(root):
                    if accepts(path):
                        names.setdefault(os.path.realpath(path), os.path.relpath(path, root))
                    else:
                        suffix = os.path.splitext(path)[1].lower() or "(none)"
                        skipped[suffix] = skipped.get(suffix, 0) + 1
            elif os.path.isfile(root):
                refuse_other_compression(root)
                names.setdefault(os.path.realpath(root), os.path.relpath(root, base or os.path.dirname(root)))
        if len(names) == before and not any(os.path.exists(root) for root in roots):
            missing.append(pattern)

    sizes = {path: os.path.getsize(path) for path in sorted(names) if os.path.isfile(path)}
    if len(sizes) < len(names):
        skipped["(broken link)"] = len(names) - len(sizes)
    forbidden = [path for path in sizes if not os.access(path, os.R_OK)]
    if forbidden:
        more = f", nor may {len(forbidden) - 1} other files of this source" if len(forbidden) > 1 else ""
        raise ValueError(
            f"{forbidden[0]}: this user may not read it{more}; change its permissions, or leave it out of the `paths` "
            f"of source {source.name}"
        )
    chosen = sorted(sizes)
    if source.maximum_bytes is not None:
        chosen = _choose(sizes, names, source.maximum_bytes, f"{seed}:{source.name}")
    files = tuple(InputFile(path, sizes[path], "") for path in chosen)
    return SourceFiles(
        name=source.name,
        kind=source.kind,
        files=files,
        missing=tuple(missing),
        skipped=dict(sorted(skipped.items())),
        left_out_files=len(sizes) - len(files),
        left_out_bytes=sum(sizes.values()) - sum(file.size for file in files),
    )


def with_digests(source: SourceFiles, advance: Callable[[int], None], threads: int = 1) -> SourceFiles:
    """Add the digest of each file; `advance` is called with the bytes read.

    Raises:
        ValueError: a file cannot be read to its end.
    """
    files = []
    with ThreadPoolExecutor(threads) as pool:  # hashing releases the GIL
        for file, sha256 in zip(source.files, pool.map(_sha256, source.files), strict=True):
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
