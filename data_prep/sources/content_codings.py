"""Content codings of HTTP: decompression of pages.

Source: RFC 9110, section 8.4 (gzip, x-gzip, deflate, compress, x-compress; codings are listed in the order in which
they were applied), RFC 7932 (br), RFC 8878 (zstd).
"""

from __future__ import annotations

import io
import zlib

from data_prep.sources.compression import DamagedFileError, unpacked_blocks

_LONGEST_LIST = 8
"""Largest number of codings that are undone; pages have one, and a long list is an attack."""


class CodingError(Exception):
    """A page cannot be decompressed."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        """Either `unknown_coding` or `damaged_content`."""


def undo_codings(content: bytes, codings: str, maximum_bytes: int, is_truncated: bool = False) -> bytes:
    """Decompress a page; at most `maximum_bytes` + 1 bytes are returned.

    A header left over after a crawler has decompressed the page is no error: content that is not compressed is returned
    as it is.

    Args:
        codings: the value of `Content-Encoding`, a list.
        is_truncated: the crawler stopped reading: the part that can be decompressed is returned.

    Raises:
        CodingError: a coding is not known, or the content is damaged.
    """
    names = [name.strip().lower() for name in codings.split(",") if name.strip()]
    names = [name for name in names if name not in ("identity", "none", "utf-8", "utf8")]
    if len(names) > _LONGEST_LIST:
        raise CodingError(
            "unknown_coding", f"{len(names)} content codings are listed; at most {_LONGEST_LIST} are undone"
        )
    for name in reversed(names):
        content = _undo(content, name, maximum_bytes, is_truncated)
    return content[: maximum_bytes + 1]


def _undo(content: bytes, name: str, maximum_bytes: int, is_truncated: bool) -> bytes:
    if name not in _UNDO:
        raise CodingError("unknown_coding", f"the content coding {name!r} is not known; known are {', '.join(_UNDO)}")
    magic, undo = _UNDO[name]
    if not content or not content.startswith(magic):
        return content
    parts: list[bytes] = []
    try:
        undo(content, maximum_bytes + 1, parts)
    except DamagedFileError as error:
        if not parts and _is_text(content):
            return content
        if not is_truncated:
            raise CodingError("damaged_content", f"content coding {name}: {error}") from None
    return b"".join(parts)[: maximum_bytes + 1]


def _is_text(content: bytes) -> bool:
    return b"\0" not in content[:1000] and content.lstrip()[:1] == b"<"


def _undo_gzip(content: bytes, limit: int, parts: list[bytes]) -> None:
    _take(content, ".gz", limit, parts)


def _undo_zstd(content: bytes, limit: int, parts: list[bytes]) -> None:
    _take(content, ".zst", limit, parts)


def _take(content: bytes, suffix: str, limit: int, parts: list[bytes]) -> None:
    size = 0
    try:
        for block in unpacked_blocks(io.BufferedReader(io.BytesIO(content)), suffix):
            parts.append(block)
            size += len(block)
            if size >= limit:
                return
    except DamagedFileError as error:
        if "begins at byte" in str(error) and parts:
            return  # bytes after the end, which browsers ignore too
        raise


def _undo_deflate(content: bytes, limit: int, parts: list[bytes]) -> None:
    """Decompress deflate with zlib's header, as the standard requires, or without it, as many servers send it."""
    try:
        _inflate(content, zlib.MAX_WBITS, limit, parts)
    except DamagedFileError:
        if parts:
            raise
        _inflate(content, -zlib.MAX_WBITS, limit, parts)


def _inflate(content: bytes, window_bits: int, limit: int, parts: list[bytes]) -> None:
    unpacker = zlib.decompressobj(window_bits)
    try:
        block = unpacker.decompress(content, limit)
    except zlib.error as error:
        raise DamagedFileError(str(error)) from None
    if not unpacker.eof and len(block) < limit:
        if block:
            parts.append(block)
        raise DamagedFileError("it ends early")
    parts.append(block)


def _undo_brotli(content: bytes, limit: int, parts: list[bytes]) -> None:
    import brotli

    unpacker = brotli.Decompressor()
    size = 0
    try:
        block = unpacker.process(content, output_buffer_limit=limit)
        while block:
            parts.append(block)
            size += len(block)
            if size >= limit:
                return
            block = b"" if unpacker.can_accept_more_data() else unpacker.process(b"", output_buffer_limit=limit - size)
    except brotli.error as error:
        raise DamagedFileError(str(error)) from None
    if not unpacker.is_finished():
        raise DamagedFileError("it ends early")


def _undo_compress(content: bytes, limit: int, parts: list[bytes]) -> None:
    """Decompress LZW as written by `compress`: codes of 9 to 16 bits, lowest bits first, in groups of eight."""
    if len(content) < 4 or not 9 <= content[2] & 31 <= 16:
        raise DamagedFileError("no data as `compress` writes it")
    longest_bits, clears = content[2] & 31, bool(content[2] & 128)
    prefixes, suffixes = [0] * (1 << longest_bits), bytearray(1 << longest_bits)
    first_free = 257 if clears else 256
    free, bits, previous, final = first_free, 9, -1, 0
    place, base = 0, 3  # bits of this width read so far, and the byte where they begin
    output = bytearray()
    while len(output) < limit:
        start = base + place // 8
        if base * 8 + place + bits > len(content) * 8:
            break
        code = int.from_bytes(content[start : start + 3], "little") >> place % 8 & ((1 << bits) - 1)
        place += bits
        if code == 256 and clears:
            base, place = _next_group(base, place, bits)
            free, bits, previous = first_free, 9, -1
            continue
        if code > free or (code == free and previous < 0) or (previous < 0 and code > 255):
            parts.append(bytes(output))
            raise DamagedFileError("a code that is not in the table")
        string = bytearray()
        entry = code
        if code == free:
            string.append(final)
            entry = previous
        while entry > 255:
            string.append(suffixes[entry])
            entry = prefixes[entry]
        string.append(entry)
        final = entry
        output += string[::-1]
        if previous >= 0 and free < 1 << longest_bits:
            prefixes[free], suffixes[free] = previous, final
            free += 1
        if free > (1 << bits) - 1 and bits < longest_bits:
            base, place = _next_group(base, place, bits)
            bits += 1
        previous = code
    parts.append(bytes(output))


def _next_group(base: int, place: int, bits: int) -> tuple[int, int]:
    """Return the start of the next group: codes are written in groups of eight, and the width changes only between
    groups."""
    group = bits * 8
    return base + -(-place // group) * bits, 0


_UNDO = {
    "gzip": (b"\x1f\x8b", _undo_gzip),
    "x-gzip": (b"\x1f\x8b", _undo_gzip),
    "deflate": (b"", _undo_deflate),
    "br": (b"", _undo_brotli),
    "zstd": (b"", _undo_zstd),
    "compress": (b"\x1f\x9d", _undo_compress),
    "x-compress": (b"\x1f\x9d", _undo_compress),
}
