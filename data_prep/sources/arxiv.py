"""Papers in arXiv's formats: a `.tar` of many, or one paper as a compressed folder (`.tar.gz`, `.gz`) or a `.tex` file.

Each paper is one document, see `latex`. If its file is named by its arXiv number, its URL is the paper's.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator

from data_prep.sources import latex
from data_prep.sources.ranges import FileRange
from data_prep.sources.reading import Document, Fault, Reader, decode, excerpt_of, read_whole, usable
from data_prep.sources.storage import open_input, size_of

_SUFFIXES = (".tar", ".tar.gz", ".gz", ".tex")
_NUMBER = re.compile(r"(\d{4}\.\d{4,5}|[a-z-]{1,20}\d{7})(v\d+)?")
"""arXiv numbers since April 2007, and older ones."""


def _accepts(path: str) -> bool:
    return path.lower().endswith(_SUFFIXES)


def read(piece: FileRange, maximum_document_bytes: int) -> Iterator[Document | Fault]:
    """Yield the papers of a file. `maximum_document_bytes` limits the decompressed size of a paper without its
    pictures."""
    path = piece.path
    if not path.lower().endswith(".tar"):
        content = read_whole(path, maximum_document_bytes)
        yield content if isinstance(content, Fault) else _paper(path, path, content, maximum_document_bytes)
        return
    try:
        with open_input(path) as file, tarfile.open(fileobj=file, mode="r:") as papers:
            for member in papers:
                if member.isfile() and member.name.lower().endswith(_SUFFIXES):
                    yield _member(path, papers, member, maximum_document_bytes)
        if not _has_end(path):  # tarfile takes a truncated header for the end
            raise tarfile.ReadError("its end is missing")
    except tarfile.TarError as error:
        yield Fault("damaged_file", f"damaged tar file: {error}; the papers before it are read", path)


def _member(path: str, papers: tarfile.TarFile, member: tarfile.TarInfo, maximum_bytes: int) -> Document | Fault:
    place = f"{path}!{member.name}"
    file = papers.extractfile(member)
    assert file is not None
    packed = file.read()
    if len(packed) < member.size:
        raise tarfile.ReadError(f"{member.name} is not whole")
    try:
        content = _unpacked(packed, maximum_bytes)
    except (OSError, EOFError, zlib.error) as error:
        return Fault("damaged_file", f"damaged gzip file: {error}", place)
    if content is None:
        return Fault("too_large", f"more than {maximum_bytes:,} bytes when decompressed", place)
    return _paper(place, member.name, content, maximum_bytes)


def _has_end(path: str) -> bool:
    """Return whether the archive ends with two empty blocks (POSIX.1-2008, pax, ustar interchange format)."""
    with open_input(path) as file:
        file.seek(max(0, size_of(path) - 1024))
        return file.read() == bytes(1024)


def _unpacked(content: bytes, maximum_bytes: int) -> bytes | None:
    if not content.startswith(b"\x1f\x8b"):
        return content
    with gzip.open(io.BytesIO(content)) as file:
        unpacked = file.read(maximum_bytes + 1)
    return unpacked if len(unpacked) <= maximum_bytes else None


def _paper(place: str, name: str, content: bytes, maximum_bytes: int) -> Document | Fault:
    def fault(reason: str, detail: str) -> Fault:
        return Fault(reason, detail, place, excerpt=excerpt_of(content))

    files = _tex_files(content)
    main = latex.main_file(files)
    if main is None:
        return fault("no_latex", "no LaTeX source, as with papers submitted as PDF")
    try:
        text = latex.body(latex.expand_macros(latex.whole_text(files, main)))
    except latex.MacroError as error:
        return fault("endless_macros", str(error))
    number = _NUMBER.search(os.path.basename(name))
    url = f"https://arxiv.org/abs/{number.group()}" if number else place
    return usable(text, url, {"file": os.path.basename(name), "main": main}, fault, maximum_bytes)


def _tex_files(content: bytes) -> dict[str, str]:
    """Return the LaTeX files of a paper by name: those of an archive, or the content itself."""
    if content[257:262] != b"ustar":
        return {"main.tex": _text(content)} if _is_latex(content) else {}
    files: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            if member.isfile() and member.name.lower().endswith((".tex", ".bbl", ".ltx", ".latex")):
                file = archive.extractfile(member)
                assert file is not None
                files[member.name.removeprefix("./")] = _text(file.read())
    return files


def _is_latex(content: bytes) -> bool:
    return b"\0" not in content[:1000] and b"\\" in content and not content.startswith(b"%PDF")


def _text(content: bytes) -> str:
    """Decode as UTF-8, or else as Latin-1, in which most older papers were written and which fits any bytes."""
    text = decode(content, "")
    return (content.decode("latin-1") if isinstance(text, Fault) else text).replace("\r\n", "\n").replace("\r", "\n")


READER = Reader(_accepts, read)
