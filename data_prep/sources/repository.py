"""Source code: each file of a repository is a document, if its licence allows it.

A repository is a folder, an archive (`.zip`, `.tar`, also `.gz`, `.bz2`, `.xz`, `.zst`), a git bundle (`.bundle`), or
some rows of a Parquet file in the form of The Stack. `code_languages` decides which language a file is in, `licenses`
under which licence it is: by its own tag or notice, or else by the licence file of the closest folder above it. Files
under other licences, and files that nobody wrote (`code_files.RULES`), are set aside by name of the rule: `license`,
`generated`, ….

Notices of copyright and licence at the start of a file are cut; `removed` in the metadata are their ranges in the file.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import lzma
import os
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import IO, Any

from data_prep.sources import parquet
from data_prep.sources.code_files import boilerplate_spans, rule_against, without
from data_prep.sources.code_languages import DATA_SUFFIXES, has_no_suffix, language_by_name, language_of
from data_prep.sources.compression import ByteStream, DamagedFileError
from data_prep.sources.fields import Fields
from data_prep.sources.licenses import UNKNOWN, is_allowed, is_license_file, license_of_text
from data_prep.sources.ranges import FileRange
from data_prep.sources.reading import Document, Fault, Reader, decode, excerpt_of, read_whole, usable
from data_prep.sources.storage import open_input, scheme_of

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_ARCHIVES = (*_TARS, ".zip", ".bundle")
_LICENSE_BYTES = 200_000
_HEADER_CHARACTERS = 5_000
"""Start of a file in which its own licence is looked for."""

_CONTENTS = ("content", "code", "text")
_PATHS = ("max_stars_repo_path", "path", "filename", "file_path")
_REPOSITORIES = ("max_stars_repo_name", "repo_name", "repository", "repository_name", "repo")
_LICENSES = ("max_stars_repo_licenses", "licenses", "detected_licenses", "license")
_REVISIONS = ("max_stars_repo_head_hexsha", "revision_id", "hexsha", "commit")
"""Names of columns, in the order of preference: The Stack, The Stack v2 and GitHub Code."""


@dataclass(frozen=True)
class _Options:
    """Settings of a source: licences allowed, and its folders."""

    licenses: tuple[str, ...] = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT")
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class _File:
    """A file of a repository.

    Attributes:
        path: its path within the repository.
        place: where it is, for messages and as URL.
        licenses: SPDX expressions of the licence above it, one of which is enough; empty: there is none.
    """

    path: str
    place: str
    repository: str
    content: bytes
    licenses: tuple[str, ...]
    revision: str | None = None


_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    DamagedFileError,
    subprocess.CalledProcessError,
)


def _accepts(path: str) -> bool:
    name = path.lower()
    if name.endswith((*_ARCHIVES, ".parquet", ".pq")):
        return True
    return language_by_name(path) is not None or has_no_suffix(path) or is_license_file(path)


def _divide(path: str, size: int, shard_bytes: int) -> list[FileRange]:
    if path.lower().endswith((".parquet", ".pq")):
        return parquet.READER.divide(path, size, shard_bytes)
    return [FileRange(path, 0, size, size)]


def read(
    piece: FileRange, maximum_document_bytes: int, options: _Options
) -> Generator[Document | Fault, None, Counter[str]]:
    """Yield the files of a repository, or of a range of a Parquet file.

    Returns:
        The number of files that are not source code.
    """
    passed_over: Counter[str] = Counter()
    path = piece.path
    is_archive, is_parquet = path.lower().endswith(_ARCHIVES), path.lower().endswith((".parquet", ".pq"))
    if (is_archive or is_parquet) and _is_within_repository(path, options.roots):
        passed_over["data and configuration files"] += 1
        return passed_over
    if is_parquet:
        yield from _rows(piece, maximum_document_bytes, options)
        return passed_over
    try:
        for file in (
            _members(path, maximum_document_bytes) if is_archive else _one(path, maximum_document_bytes, options)
        ):
            result = file if isinstance(file, Fault) else _document(file, options.licenses, maximum_document_bytes)
            if isinstance(result, str):
                passed_over[result] += 1
            else:
                yield result
    except _DAMAGE as error:
        detail = getattr(error, "stderr", None) or str(error)
        yield Fault("damaged_file", f"damaged archive: {detail.strip()}; the files before it are read", path)
    return passed_over


def _document(file: _File, allowed: Sequence[str], maximum_bytes: int) -> Document | Fault | str:
    """Return a file's document, why it is set aside, or what it is if it is not source code."""

    def fault(reason: str, detail: str) -> Fault:
        return Fault(reason, detail, file.place, excerpt=excerpt_of(file.content))

    if is_license_file(file.path):
        return "licence files"
    suffix = os.path.splitext(file.path)[1].lower()
    if suffix in DATA_SUFFIXES or (language_by_name(file.path) is None and not has_no_suffix(file.path)):
        return "data and configuration files" if suffix in DATA_SUFFIXES else "files that are not source code"
    if language_by_name(file.path) is None and b"\0" in file.content:
        return "files that are not source code"
    text = decode(file.content, file.place)
    if isinstance(text, Fault):
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    language = language_of(file.path, text)
    if language is None:
        return "files that are not source code"
    if not text.strip():
        return fault("empty", "no text, or white space only")
    own = license_of_text(text[:_HEADER_CHARACTERS])
    licenses = (own,) if own else file.licenses
    if allowed and not any(is_allowed(one, allowed) for one in licenses):
        named = " or ".join(licenses)
        return fault("license", f"under {named}, which `licenses` does not allow" if named else "no licence is known")
    if rule := rule_against(file.path, text, language):
        return fault(rule, f"{file.path}: see `data_prep/sources/code_files.py`, RULES")
    spans = boilerplate_spans(text, language)
    metadata = {
        "repository": file.repository,
        "path": file.path,
        "code_language": language,
        "license": " OR ".join(licenses) or None,
        "license_from": "file" if own else "repository" if licenses else None,
        "revision": file.revision,
        "removed": [list(span) for span in spans] or None,
    }
    known = {key: value for key, value in metadata.items() if value is not None}
    return usable(without(text, spans), file.place, known, fault, maximum_bytes)


# ---------------------------------------------------------------------------------------------------------------------
# folders


def _one(path: str, maximum_bytes: int, options: _Options) -> Iterator[_File | Fault]:
    if language_by_name(path) is None:  # perhaps a script, but a program more often
        with open_input(path) as file:
            head = file.read(_HEADER_CHARACTERS)
        content = head if b"\0" in head else read_whole(path, maximum_bytes)
    else:
        content = read_whole(path, maximum_bytes)
    if isinstance(content, Fault):
        yield content
        return
    root = _root_of(path, options.roots)
    if root is None:
        yield _File(os.path.basename(path), path, os.path.dirname(path), content, ())
        return
    top = _repository_of(os.path.dirname(path), root)
    yield _File(
        os.path.relpath(path, top), path, os.path.basename(top), content, _licenses_above(os.path.dirname(path), root)
    )


def _root_of(path: str, roots: Sequence[str]) -> str | None:
    return None if scheme_of(path) else next((root for root in roots if path.startswith(root + os.sep)), None)


def _is_within_repository(path: str, roots: Sequence[str]) -> bool:
    """Return whether an archive is a file of a repository, such as an input of its tests, and not a repository."""
    folder, root = os.path.dirname(path), _root_of(path, roots)
    if root is None:
        return False
    is_checkout = os.path.exists(os.path.join(_repository_of(folder, root), ".git"))
    return is_checkout or bool(_licenses_above(folder, root))


@lru_cache(maxsize=4096)
def _repository_of(folder: str, root: str) -> str:
    """Return the folder of a repository: the closest one above with `.git`, else the source's folder if it has a
    licence, else the folder directly below."""
    above = folder
    while True:
        if os.path.exists(os.path.join(above, ".git")):
            return above
        if above == root:
            break
        above = os.path.dirname(above)
    if folder == root or _licenses_in(root):
        return root
    return os.path.join(root, os.path.relpath(folder, root).split(os.sep)[0])


@lru_cache(maxsize=4096)
def _licenses_above(folder: str, root: str) -> tuple[str, ...]:
    """Return the licences of the closest folder with a licence file, up to the repository's."""
    top = _repository_of(folder, root)
    found = _licenses_in(folder)
    return found if found or folder == top else _licenses_above(os.path.dirname(folder), root)


@lru_cache(maxsize=4096)
def _licenses_in(folder: str) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if is_license_file(entry.name) and entry.is_file())
    found = []
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            found.append(_license_of(file.read(_LICENSE_BYTES)))
    return tuple(dict.fromkeys(found))


def _license_of(content: bytes) -> str:
    return license_of_text(content.decode("utf-8", "replace")) or UNKNOWN


# ---------------------------------------------------------------------------------------------------------------------
# archives: read twice, first for the licences, since a folder's licence file may be after its other files


def _members(path: str, maximum_bytes: int) -> Iterator[_File | Fault]:
    name = path.lower()
    entries: Callable[[], Iterator[_Entry]]
    with tempfile.TemporaryDirectory() as folder:
        if name.endswith(".bundle"):
            entries, revision = _git_entries(path, folder)
        else:
            entries, revision = partial(_zip_entries if name.endswith(".zip") else _tar_entries, path), None
        licenses: dict[str, list[str]] = {}
        tops: set[str] = set()  # an archive of one folder, as GitHub makes them, is that folder
        for entry in entries():
            tops.add(entry.path[: entry.path.find("/") + 1])
            if is_license_file(entry.path) and entry.size <= _LICENSE_BYTES:
                licenses.setdefault(os.path.dirname(entry.path), []).append(_license_of(entry.read()))
        top = next(iter(tops)) if len(tops) == 1 and revision is None else ""
        for entry in entries():
            place, inner = f"{path}!{entry.path}", entry.path.removeprefix(top)
            if entry.size > maximum_bytes:
                if language_by_name(entry.path):
                    detail = f"{entry.size:,} bytes, maximum_document_bytes is {maximum_bytes:,}"
                    yield Fault("too_large", detail, place)
                continue
            above = os.path.dirname(entry.path)
            while above and above not in licenses:
                above = os.path.dirname(above)
            found = tuple(dict.fromkeys(licenses.get(above, ())))
            yield _File(inner, place, top.rstrip("/") or os.path.basename(path), entry.read(), found, revision)


@dataclass(frozen=True)
class _Entry:
    path: str
    size: int
    read: Callable[[], bytes]


def _tar_entries(path: str) -> Iterator[_Entry]:
    with _decompressed(path) as content:
        file = _WithTail(content)
        with tarfile.open(fileobj=file, mode="r|") as archive:  # type: ignore[call-overload]
            for member in archive:
                if member.isfile():
                    yield _Entry(member.name.removeprefix("./"), member.size, partial(_read, archive, member))
        file.check_end()


@contextmanager
def _decompressed(path: str) -> Iterator[Any]:
    name = path.lower()
    if name.endswith(".zst"):
        with ByteStream(path) as stream:
            yield stream
        return
    with open_input(path) as file:
        if name.endswith(("gz", "bz2", "xz")):
            packed = (gzip if name.endswith("gz") else bz2 if name.endswith("bz2") else lzma).open(file)
            with packed:
                yield packed
        else:
            yield file


class _WithTail:
    """File of which the last bytes are remembered: tarfile takes a truncated header for the end of an archive."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._tail = b""

    def read(self, size: int) -> bytes:
        block: bytes = self._file.read(size)
        self._tail = (self._tail + block)[-tarfile.BLOCKSIZE :]
        return block

    def check_end(self) -> None:
        """Raise ReadError unless the archive ends with an empty block (POSIX.1-2008, pax, ustar interchange format)."""
        while self.read(1 << 20):
            pass
        if self._tail != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("its end is missing")


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    content = file.read()
    if len(content) < member.size:
        raise tarfile.ReadError(f"{member.name} is not whole")
    return content


def _zip_entries(path: str) -> Iterator[_Entry]:
    with open_input(path) as file, zipfile.ZipFile(file) as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
            if not member.is_dir():
                yield _Entry(member.filename, member.file_size, partial(archive.read, member))


def _git_entries(path: str, folder: str) -> tuple[Callable[[], Iterator[_Entry]], str]:
    """Unpack a bundle into a bare repository; return its files at HEAD, or at its first branch, and their commit.

    Raises:
        ValueError: git is not installed, or the bundle is at an address.
        CalledProcessError: the bundle is damaged, or needs commits that it does not have.
    """
    if scheme_of(path):
        raise ValueError(f"{path}: git reads bundles from the file system only; copy it")

    def git(*arguments: str) -> str:
        command = ["git", "-c", "core.quotepath=off", *arguments]
        try:
            return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
        except FileNotFoundError:
            raise ValueError(f"{path}: reading a git bundle needs git, which is not installed") from None

    heads = dict(line.split(" ", 1)[::-1] for line in git("bundle", "list-heads", path).splitlines())
    if not heads:
        raise subprocess.CalledProcessError(1, "git", stderr="a bundle without a branch")
    revision = heads.get("HEAD") or next(iter(heads.values()))
    git("init", "--quiet", "--bare", ".")
    git("bundle", "unbundle", path)

    def entries() -> Iterator[_Entry]:
        # `size` last before the tab: mode, type, object, size
        listed = git("ls-tree", "-r", "-z", "--long", revision).split("\0")
        with subprocess.Popen(
            ["git", "cat-file", "--batch"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            for line in filter(None, listed):
                facts, name = line.split("\t", 1)
                mode, kind, identity, size = facts.split()
                if kind == "blob" and mode != "120000":
                    yield _Entry(name, int(size), partial(_blob, process.stdin, process.stdout, identity))

    return entries, revision


def _blob(requests: IO[bytes], answers: IO[bytes], identity: str) -> bytes:
    requests.write(f"{identity}\n".encode())
    requests.flush()
    size = int(answers.readline().split()[2])
    content = answers.read(size)
    answers.read(1)
    return content


# ---------------------------------------------------------------------------------------------------------------------
# Parquet


def _rows(piece: FileRange, maximum_bytes: int, options: _Options) -> Iterator[Document | Fault]:
    import pyarrow.parquet as pq

    try:
        with open_input(piece.path) as file:
            names = pq.read_schema(file).names
    except (OSError, ValueError):
        names = list(_CONTENTS)  # the reader reports it
    content = next((name for name in _CONTENTS if name in names), None)
    if content is None:
        raise ValueError(
            f"{piece.path}: no column with source code: kind 'repository' needs {' or '.join(_CONTENTS)}, the file has "
            f"{', '.join(names)}"
        )
    for number, row in enumerate(parquet.read(piece, maximum_bytes, Fields((content,)))):
        if isinstance(row, Fault):
            yield row
            continue
        facts = row.metadata
        path = str(_first(facts, _PATHS) or f"row {number}")
        given = _first(facts, _LICENSES)
        licenses = tuple(given) if isinstance(given, list) else (given,) if given else ()
        file = _File(
            path,
            row.url,
            str(_first(facts, _REPOSITORIES) or ""),
            row.text.encode(),
            tuple(_SPDX.get(str(name).lower(), str(name)) for name in licenses),
            _first(facts, _REVISIONS),
        )
        result = _document(file, options.licenses, maximum_bytes)
        if isinstance(result, str):
            yield Fault("not_code", f"{path}: {result}", row.url, excerpt=excerpt_of(row.text))
        else:
            yield result


_SPDX = {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause"}
"""SPDX identifiers of GitHub's names, which GitHub Code has."""


def _first(facts: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((facts[name] for name in names if facts.get(name)), None)


# ---------------------------------------------------------------------------------------------------------------------


def _roots(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the folders of a source, the deepest ones first; those at addresses and of the installation have none."""
    found = set()
    for path in paths:
        if scheme_of(path) or "{" in path:
            continue
        for one in glob.glob(os.path.expanduser(path), recursive=True):
            real = os.path.realpath(one)
            found.add(real if os.path.isdir(real) else os.path.dirname(real))
    return tuple(sorted(found, key=lambda root: (-len(root), root)))


def reader_with(options: Mapping[str, Any]) -> Reader:
    """Return the reader of a source with these settings."""
    chosen = _Options(tuple(options["licenses"]), _roots(options["paths"]))
    return Reader(_accepts, partial(read, options=chosen), _divide)


READER = Reader(_accepts, partial(read, options=_Options()), _divide)
