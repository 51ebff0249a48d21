"""Decoding web pages as browsers do: the encodings and labels of the WHATWG Encoding standard.

A label such as `iso-8859-1` or `shift_jis` means another encoding on the web than in Python: windows-1252, and that of
Windows in Japan. `webencodings` has the labels; this module adapts Python's codecs to the standard's tables.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

from webencodings import lookup

LARGEST_REPLACED_SHARE = 0.01
"""Largest share of a page's characters that may be U+FFFD. A page with a few damaged bytes is a page; one that was
decoded by a wrong table is not. Measured on 50 documents each of Universal Dependencies, written as windows-1252 and
read as UTF-8: the median is 3.2 % in Portuguese, 3.0 % in French, 1.9 % in Spanish and 1.5 % in German."""
_SINGLE_BYTES = 2
"""Largest share of bad bytes that is taken for damage in a page that declares UTF-8 and has no other character beyond
ASCII; with more, it is in another encoding: in Italian they are only 0.6 %."""

_CODECS = {
    "shift_jis": "cp932", "euc-kr": "cp949", "gbk": "gb18030", "big5": "big5hkscs", "windows-874": "cp874",
    "macintosh": "mac_roman", "x-mac-cyrillic": "mac_cyrillic", "iso-8859-8-i": "iso8859_8", "ibm866": "cp866",
}  # fmt: skip
"""Python's codecs by the standard's name, if they have another name or that name is stricter in Python."""
_KOI8_U = {0x255D: 0x045E, 0x256C: 0x040E}
"""Differences of the standard's koi8-u, which has letters of Belarusian where Python's has box drawings."""
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def decode_page(content: bytes, declared: str | None, is_html: bool = True) -> str | None:
    """Decode a page; None if its bytes are not text in any plausible encoding.

    A byte order mark decides. Otherwise valid UTF-8 with bytes beyond ASCII is decoded as that, whatever is declared:
    other text is hardly ever valid UTF-8. Then follow the encoding that the header declares, and the one that the page
    declares or its bytes suggest (HTML standard, section 13.2.3). Invalid bytes become U+FFFD, as in the Encoding
    standard, up to `LARGEST_REPLACED_SHARE`.
    """
    for mark, name in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return _within_share(decode_as(content[len(mark) :], name))
    if not content.isascii():
        text = _utf_8(content)
        if text is not None:
            return text
    last = None
    for label in _labels(content, declared, is_html):
        text = _within_share(decode_as(content, label))
        if text is None:
            continue
        if text.count("\ufffd") <= _SINGLE_BYTES or text.count("\ufffd") < len(text) - len(
            text.encode("ascii", "ignore")
        ):
            return text
        last = last or text
    return last


def _utf_8(content: bytes) -> str | None:
    """Decode as UTF-8 if nine of ten sequences beyond ASCII are valid."""
    text = content.decode("utf-8", "replace")
    replaced = text.count("\ufffd") - content.count(b"\xef\xbf\xbd")
    if not replaced:
        return text
    beyond_ascii = len(text) - len(text.encode("ascii", "ignore")) - text.count("\ufffd")
    return text if replaced * 9 <= beyond_ascii and replaced <= LARGEST_REPLACED_SHARE * len(text) else None


def _labels(content: bytes, declared: str | None, is_html: bool) -> list[str]:
    if not is_html:
        return [declared or "utf-8"]
    from resiliparse.parse.encoding import detect_encoding

    found = (declared, detect_encoding(content, from_html_meta=True), detect_encoding(content, from_html_meta=False))
    return list(dict.fromkeys(label for label in found if label))


def _within_share(text: str | None) -> str | None:
    if text is None or text.count("\ufffd") > LARGEST_REPLACED_SHARE * len(text):
        return None
    return text


def decode_as(content: bytes, label: str) -> str | None:
    """Decode by the encoding of a label, with U+FFFD for invalid bytes; None for an unknown label.

    A label that the standard does not have, such as `cp949`, has Python's meaning. The standard's `replacement`
    encoding, for encodings that are refused because they can hide markup (iso-2022-kr, hz-gb-2312), counts as unknown.
    """
    encoding = lookup(label) or lookup(label.replace("_", "-"))
    if encoding is None:
        return _decode_as_python(content, label)
    name = encoding.name
    if name in ("replacement", "x-user-defined"):
        return None
    if name == "iso-2022-jp":
        return _iso_2022_jp(content)
    if name in ("utf-16le", "utf-16be"):
        return content.decode(f"{name[:6]}-{name[6:]}", "replace")
    if name == "utf-8":
        return content.decode("utf-8", "replace")
    text = content.decode(_CODECS.get(name, name), f"web:{name}" if name in _SECOND_TABLES else "web")
    return text.translate(_KOI8_U) if name == "koi8-u" else text


def _decode_as_python(content: bytes, label: str) -> str | None:
    try:
        info = codecs.lookup(label)
        return content.decode(label, "replace") if info._is_text_encoding else None
    except (LookupError, ValueError):  # an unknown label, or one with a NUL
        return None


# ---------------------------------------------------------------------------------------------------------------------
# characters that Python's codecs lack


def _shift_jis_of(first: int, second: int) -> bytes:
    """Return the bytes in Shift JIS of a row and cell of JIS X 0208, both from 0x21."""
    row = first - 0x21
    lead = row // 2 + (0x81 if row < 62 else 0xC1)
    trail = second + (0x7E if row % 2 else 0x1F + (second >= 0x60))
    return bytes((lead, trail))


def _euc_jp(pair: bytes) -> str:
    if len(pair) < 2 or min(pair) < 0xA1:
        return ""
    # NEC's and IBM's characters, which JIS X 0208 lacks: the standard's index is that of Windows
    return _shift_jis_of(pair[0] & 0x7F, pair[1] & 0x7F).decode("cp932", "ignore")


_SECOND_TABLES: dict[str, Callable[[bytes], str]] = {
    "euc-jp": _euc_jp,
    "big5": lambda pair: pair.decode("cp950", "ignore"),
    "gbk": lambda pair: "\u20ac" if pair[:1] == b"\x80" else "",
    "gb18030": lambda pair: "\u20ac" if pair[:1] == b"\x80" else "",
    "shift_jis": lambda pair: "\x80" if pair[:1] == b"\x80" else "",
}
"""Decoders of two bytes that Python's codec does not know, by the standard's name; they return nothing for invalid
ones."""


def _handler(second_table: Callable[[bytes], str] | None) -> Callable[[UnicodeError], tuple[str, int]]:
    def handle(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        start = error.start
        if (second_table is None and error.encoding in ("charmap", "cp874")) or error.encoding.startswith("cp125"):
            # the standard maps bytes that windows-125x and 874 leave undefined to control characters
            byte = error.object[start]
            return (chr(byte) if byte < 0xA0 else "\ufffd"), start + 1
        pair = error.object[start : start + 2]
        if second_table is not None and (text := second_table(pair)):
            return text, start + (1 if pair[:1] == b"\x80" else 2)
        # an ASCII byte after a lead byte is kept
        return "\ufffd", start + (2 if len(pair) == 2 and pair[1] >= 0x80 and error.end >= start + 2 else 1)

    return handle


codecs.register_error("web", _handler(None))
for _name, _table in _SECOND_TABLES.items():
    codecs.register_error(f"web:{_name}", _handler(_table))

_ESCAPE = re.compile(rb"\x1b(\(B|\(J|\(I|\$@|\$B)")


def _iso_2022_jp(content: bytes) -> str:
    """Decode each run of two-byte characters or half-width katakana by the tables of EUC-JP."""
    pieces = _ESCAPE.split(content)
    texts = [pieces[0].decode("ascii", "replace")]
    for kind, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        if kind in (b"$@", b"$B"):
            even = piece[: len(piece) // 2 * 2]
            euc = bytes(byte | 0x80 if 0x21 <= byte < 0x7F else byte for byte in even)
            texts.append(euc.decode("euc_jp", "web:euc-jp") + ("\ufffd" if len(piece) % 2 else ""))
        elif kind == b"(I":
            texts.append("".join(chr(0xFF40 + byte) if 0x21 <= byte < 0x60 else "\ufffd" for byte in piece))
        elif kind == b"(J":
            texts.append(piece.decode("ascii", "replace").translate({0x5C: 0xA5, 0x7E: 0x203E}))
        else:
            texts.append(piece.decode("ascii", "replace"))
    return "".join(texts)
