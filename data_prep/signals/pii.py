"""Personal data in a text, as spans of bytes, and its replacement by placeholders.

Found: e-mail addresses, public IPv4 and IPv6 addresses, phone numbers, payment cards (Luhn), IBANs (mod 97), and keys
of known shape or behind a name such as `api_key`. Plain numbers are left alone, as BigScience chose after seeing the
false positives (Laurençon et al. 2022, arXiv:2303.03915), whose placeholders are used: `PI:EMAIL`, `PI:IP_ADDRESS`,
`PI:KEY`.

A span is half-open and counts bytes of the UTF-8 text. Spans of one text are in order and do not overlap: where two
finds do, their union is one span with the kind of the one that begins first, of the longer of two that begin together.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.signals import pii_candidates as candidates

KINDS = ("KEY", "EMAIL", "IBAN", "CREDIT_CARD", "IP_ADDRESS", "PHONE")
"""What is found; the earlier kind wins where two claim the same bytes."""
PLACEHOLDER = "PI:{kind}"


class Span(NamedTuple):
    """Bytes [start, end) of a text, and what they are."""

    kind: str
    start: int
    end: int


_LOCAL_PART = re.compile(rb"(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]|[\xc3-\xc9][\x80-\xbf]){1,64}\Z")  # with é, ß, ø, ...
_DOMAIN = re.compile(
    rb"@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24})(?![A-Za-z0-9-]|\.[A-Za-z0-9])"
)
_NOT_DOMAINS = frozenset(
    (
        b"bz2 css gif gz html ico jpeg jpg js json md pdf png py scss service so svg tar target timer ts txt webp xml "
        b"yaml yml"
    ).split()
)
"""File endings that are no top-level domains in use for mail: `icon@2x.png`, `getty@tty1.service`."""

_OCTET = rb"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rb"(?:" + _OCTET + rb"\.){3}" + _OCTET + rb"(?![\w-]|\.\d|\.\*)")
_NUMBERED_THINGS = (
    "v|ver|version|release|rfc|firmware|kernel|section|sections|sec|sect|chapter|clause|paragraph|article|appendix|annex|"
    "figure|fig|table|step|item|abschnitt|kapitel|ziffer|punkt|artikel|absatz|anhang|abbildung|tabelle|chapitre|"
    "paragraphe|annexe|figura|tabla|sección|seccion|capítulo|capitulo|artículo|articulo|seção|secao|sezione|capitolo|"
    "paragrafo|hoofdstuk|paragraaf|rozdział|раздел|Раздел|глава|Глава|пункт|Пункт|§"
)
_VERSION_BEFORE = re.compile(rb"(?<![A-Za-z0-9])(?:" + _NUMBERED_THINGS.encode() + rb")[.:= ]{0,3}\Z", re.IGNORECASE)
_REQUIREMENT_BEFORE = re.compile(rb"[=<>~!]=[ ]?\Z")
"""`package==4.5.5.64`, as requirements are written."""
_HEADING_BEFORE = re.compile(rb"(?:\A|\n)[ \t#*>]*\Z")
_HEADING_AFTER = re.compile(rb"[.)]?[ \t]+[^\s\d]")
_LARGEST_HEADING_NUMBER = 30
_IPV6 = re.compile(rb"[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,35}(?![\w:.])")

_CARD = re.compile(
    rb"(?<!\d)(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|\d{4}([ -])\d{6}\2\d{4,5})(?!\w|[.,-]\d)"
)
_CARD_DIGITS = re.compile(
    rb"(?:4(?:\d{12}|\d{15}|\d{18})"  # Visa
    rb"|5[1-5]\d{14}|(?:222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    rb"|3[47]\d{13}"  # American Express
    rb"|3(?:0[0-5]|[689]\d)\d{11}"  # Diners Club
    rb"|35(?:2[89]|[3-8]\d)\d{12}"  # JCB
    rb"|(?:6011|64[4-9]\d|65\d\d)\d{12}(?:\d{3})?"  # Discover
    rb"|62\d{14}(?:\d{0,3}))\Z"  # UnionPay
)
"""Issuers and their lengths. Source: ISO/IEC 7812 ranges as the networks publish them."""

_IBAN_LENGTHS: dict[bytes, int] = {
    country.encode(): length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}
"""Characters of an IBAN by country. Source: SWIFT, IBAN registry, release 99."""

_DIGIT_RUN = re.compile(rb"\d+(?:[ ./()-]{1,2}\d+)*")
_NUMBER = re.compile(rb"\d+")
_PHONE = re.compile(
    rb"(?:"
    # international; groups of at most five digits, which a run can be divided into in one way only
    rb"\+(?:[1-9]\d{2}|[1-9]\d?(?!\d))(?:[ .-]?\(0?\d{1,4}\))?(?:[ .-]?(?:\d{5}(?=\d)|\d{1,5}(?!\d))){1,6}"
    rb"|(?:1[ .-])?\([2-9]\d{2}\) ?[2-9]\d{2}[ .-]\d{4}"  # (212) 555-0123
    rb"|(?<!\d)(?:1[ .-])?[2-9]\d{2}([.-])[2-9]\d{2}\1\d{4}"  # 212-555-0123
    rb")(?![\w]|[-.,/:]\d)"
)
_SIGNED_DATE = re.compile(rb"\+\d{4}-[01]\d-[0-3]\d\Z")
_NATIONAL_PHONE = re.compile(rb"\(?0?\d{1,5}\)?(?:[ ./-]{1,2}\(?\d{1,8}\)?){0,6}(?![\w]|[-.,/:]\d)")
_PHONE_NAME_BEFORE = re.compile(
    rb"(?:\b(?:tel|telephone|phone|phone number|fax|mobile|cell|call|whatsapp|telefon|telefono|handy|mobil|t\xc3\xa9l"
    rb"|t\xc3\xa9l\xc3\xa9phone|tel\xc3\xa9fono|telefone|\xd1\x82\xd0\xb5\xd0\xbb)\.?|\xe2\x98\x8e|\xe7\x94\xb5\xe8\xaf\x9d|\xe9\x9b\xbb\xe8\xa9\xb1)"
    rb"[ \t]{0,2}[:.=]?[ \t]{0,3}\Z",
    re.IGNORECASE,
)

_KNOWN_KEY = re.compile(
    rb"(?:"
    rb"(?:AKIA|ASIA)[0-9A-Z]{16}"  # AWS access key id
    rb"|gh[pousr]_[0-9A-Za-z]{36,255}|github_pat_[0-9A-Za-z_]{22,255}"
    rb"|gl(?:pat|ptt|dt|rt)-[0-9A-Za-z_-]{20,}"
    rb"|xox[abeoprs]-[0-9A-Za-z-]{10,}"  # Slack
    rb"|AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{20,}|GOCSPX-[0-9A-Za-z_-]{28}"  # Google
    rb"|sk-(?:proj-|ant-|svcacct-)?(?=[A-Za-z_-]{0,200}[0-9])[0-9A-Za-z_-]{20,}"  # OpenAI, Anthropic
    rb"|[srp]k_(?:live|test)_[0-9A-Za-z]{16,}|whsec_[0-9A-Za-z]{32,}"  # Stripe
    rb"|hf_[A-Za-z0-9]{30,}|npm_[0-9A-Za-z]{36}|pypi-AgEI[0-9A-Za-z_-]{50,}|dop_v1_[0-9a-f]{64}"
    rb"|SG\.[0-9A-Za-z_-]{16,32}\.[0-9A-Za-z_-]{16,64}"  # SendGrid
    rb"|eyJ[0-9A-Za-z_-]{10,}\.eyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{10,}"  # JSON web token
    rb")(?![0-9A-Za-z_])"
)
_PRIVATE_KEY_BEGIN = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PRIVATE_KEY_END = re.compile(rb"-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PRIVATE_KEY_BYTES = (32, 16_384)
"""The least and the most between the two lines."""
_KEY_NAME_BEFORE = re.compile(
    rb"(?:api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|client[_-]?secret|auth[_-]?token|access[_-]?token"
    rb"|api[_-]?token|bearer|secret|password|passwd|token)[\"'\]]{0,2}\s{0,3}(?::=|=>|[:=]|\s)\s{0,3}[\"'`]?\Z",
    re.IGNORECASE,
)
_NAMED_KEY = re.compile(rb"[0-9A-Za-z_+/.=-]{16,256}")
_TOKEN = re.compile(rb"[0-9A-Za-z_./+=-]+")
_HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]+\Z")
MINIMUM_HEXADECIMAL_ENTROPY = 3.0
MINIMUM_ENTROPY = 4.0
"""Bits per character. detect-secrets asks 3.0 of hexadecimal and 4.5 of base64 strings wherever they stand; the
latter needs 23 different characters, more than a 20-character key often has, so behind a telling name 4.0 is enough."""


def _email(data: bytes, at: int) -> Span | None:
    domain = _DOMAIN.match(data, at)
    if domain is None or domain[1].rpartition(b".")[2].lower() in _NOT_DOMAINS:
        return None
    window = max(at - 65, 0)
    local = _LOCAL_PART.search(data[window:at])  # at the end of the window, so one match of at most 64 bytes
    if local is None:
        return None
    start = window + local.start()
    part = local[0]
    # what may stand in a local part but in practice stands before it: quotes, slashes, `key=value`, `mailto:`
    cut = max(
        part.rfind(byte)
        for byte in (b"=", b"/", b"`", b"'", b"|", b"{", b"}", b"?", b"&", b"!", b"*", b"#", b"$", b"%")
    )
    start += cut + 1
    part = part[cut + 1 :]
    stripped = part.lstrip(b".-+~^")
    start += len(part) - len(stripped)
    if not stripped or stripped.endswith(b".") or b".." in stripped:
        return None
    return Span("EMAIL", start, domain.end())


def _ipv4(data: bytes, at: int) -> Span | None:
    match = _IPV4.match(data, at)
    if match is None:
        return None
    before = data[max(at - 24, 0) : at]
    if before and (before[-1:].isalnum() or before[-1] in b"_-." or before[-1] >= 0x80):
        return None
    if before.endswith(b"/") and not before.endswith(b"//"):  # Chrome/91.0.64.12
        return None
    if _VERSION_BEFORE.search(before) or _REQUIREMENT_BEFORE.search(before):
        return None
    if not _is_public_v4(match[0].decode()):
        return None
    numbers = [int(octet) for octet in match[0].split(b".")]
    is_small = max(numbers) <= _LARGEST_HEADING_NUMBER
    if is_small and _HEADING_BEFORE.search(before) and _HEADING_AFTER.match(data, match.end()):
        return None  # 3.1.4.1. A heading
    return Span("IP_ADDRESS", at, match.end())


def _is_public_v4(text: str) -> bool:
    address = ipaddress.IPv4Address(text)
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _ipv6(data: bytes, at: int) -> Span | None:
    match = _IPV6.match(data, at)
    if match is None or (at and (data[at - 1 : at].isalnum() or data[at - 1] in b"_:.-")):
        return None
    text = match[0].rstrip(b":") if not match[0].endswith(b"::") else match[0]
    try:
        address = ipaddress.IPv6Address(text.decode())
    except ValueError:
        return None
    return Span("IP_ADDRESS", at, at + len(text)) if address.is_global else None


def _passes_luhn(digits: bytes) -> bool:
    total = 0
    for place, byte in enumerate(reversed(digits)):
        digit = byte - 0x30
        if place % 2:
            digit = digit * 2 - 9 if digit > 4 else digit * 2
        total += digit
    return total % 10 == 0


def _is_card(number: bytes) -> bool:
    digits = bytes(byte for byte in number if byte not in b" -")
    return _CARD_DIGITS.match(digits) is not None and len(set(digits)) > 1 and _passes_luhn(digits)


def _digits(data: bytes, at: int) -> list[Span]:
    """Cards and phone numbers in the run of digits and separators that begins at `at`."""
    run = _DIGIT_RUN.match(data, at)
    assert run is not None, "a candidate begins with a digit"
    stop = min(run.end() + 2, len(data))  # so that what follows can be seen
    spans: list[Span] = []
    position = at
    while (match := _CARD.search(data, position, stop)) is not None:
        if _is_card(match[0]) and not _joins_before(data, match.start()):
            spans.append(Span("CREDIT_CARD", match.start(), match.end()))
            position = match.end()
        else:
            position = _NUMBER.match(data, match.start()).end()  # type: ignore[union-attr]
    position = at
    while position and data[position - 1] in b"(+" and at - position < 2:
        position -= 1
    national = _national_phone(data, position)
    if national is not None:
        spans.append(national)
        position = national.end
    while (match := _PHONE.search(data, position, stop)) is not None:
        if _is_phone(match[0]) and not _joins_before(data, match.start()) and not _is_no_phone(data, match):
            spans.append(Span("PHONE", match.start(), match.end()))
            position = match.end()
        else:
            position = match.start() + 1
    return spans


def _is_no_phone(data: bytes, match: re.Match[bytes]) -> bool:
    """A signed date, or what comes behind `C++` and `1++`."""
    behind_plus = match[0].startswith(b"+") and data[max(match.start() - 1, 0) : match.start()] == b"+"
    return behind_plus or _SIGNED_DATE.match(match[0]) is not None


def _joins_before(data: bytes, at: int) -> bool:
    """Whether what stands before makes the digits at `at` a part of a longer number or name."""
    before = data[max(at - 2, 0) : at]
    if not before:
        return False
    last = before[-1:]
    if last.isalnum() or last == b"_":
        return True
    return last in (b".", b",", b"-", b"/", b":", b"=") and len(before) == 2 and before[:1].isdigit()


def _iban(data: bytes, at: int) -> Span | None:
    length = _IBAN_LENGTHS.get(data[at : at + 2])
    if length is None:
        return None
    end, characters = at, bytearray()
    while end < len(data) and len(characters) < length:
        byte = data[end]
        if byte == 0x20:
            if len(characters) % 4:
                return None  # printed in groups of four
        elif 0x30 <= byte <= 0x39 or 0x41 <= byte <= 0x5A:
            characters.append(byte)
        else:
            return None
        end += 1
    if len(characters) < length or data[end : end + 1].isalnum():
        return None
    number = "".join(str(int(chr(byte), 36)) for byte in characters[4:] + characters[:4])
    return Span("IBAN", at, end) if int(number) % 97 == 1 else None


def _is_phone(number: bytes) -> bool:
    return 7 <= sum(0x30 <= byte <= 0x39 for byte in number) <= 15  # at most 15: ITU-T E.164


def _national_phone(data: bytes, start: int) -> Span | None:
    """A number of no telling shape, right behind a word that says what it is."""
    if not _PHONE_NAME_BEFORE.search(data[max(start - 24, 0) : start]):
        return None
    match = _NATIONAL_PHONE.match(data, start)
    return Span("PHONE", start, match.end()) if match is not None and _is_phone(match[0]) else None


def entropy(text: bytes) -> float:
    """Shannon entropy of the bytes, in bits per byte."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def _key(data: bytes, at: int) -> Span | None:
    token = _TOKEN.match(data, at)
    assert token is not None, "a candidate begins with a byte of a token"
    end = token.end()
    known = _KNOWN_KEY.search(data, at, min(end, at + 4096))
    if known is not None and not (known.start() > at and data[known.start() - 1 : known.start()].isalnum()):
        return Span("KEY", known.start(), known.end())
    # `name=value` without blanks is one token: the value begins after the last sign
    start = at + data[at:end].rstrip(b"=").rfind(b"=") + 1
    named = _NAMED_KEY.match(data, start, end)
    if named is None or not _KEY_NAME_BEFORE.search(data[max(start - 32, 0) : start]):
        return None
    value = named[0].rstrip(b".")
    is_hexadecimal = _HEXADECIMAL.match(value) is not None
    least = MINIMUM_HEXADECIMAL_ENTROPY if is_hexadecimal else MINIMUM_ENTROPY
    has_both = any(0x30 <= byte <= 0x39 for byte in value) and any(byte >= 0x41 for byte in value)
    if not has_both or entropy(value) < least:
        return None
    return Span("KEY", start, start + len(value))


def _private_key(data: bytes, at: int) -> Span | None:
    begin = _PRIVATE_KEY_BEGIN.match(data, at)
    if begin is None:
        return None
    least, most = _PRIVATE_KEY_BYTES
    dashes = data.find(b"-----", begin.end(), begin.end() + most)
    end = _PRIVATE_KEY_END.match(data, dashes) if dashes - begin.end() >= least else None
    return Span("KEY", at, end.end()) if end is not None else None


_JUDGES = {
    candidates.AT_SIGN: _email,
    candidates.DOTTED_NUMBERS: _ipv4,
    candidates.COLONS: _ipv6,
    candidates.ACCOUNT: _iban,
    candidates.TOKEN: _key,
    candidates.DASHES: _private_key,
}


def merge(spans: Sequence[Span]) -> list[Span]:
    """Spans in order without overlaps; see the module's docstring for which kind a union gets."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end, KINDS.index(span.kind))):
        if merged and span.start < merged[-1].end:
            if span.end > merged[-1].end:
                merged[-1] = Span(merged[-1].kind, merged[-1].start, span.end)
        else:
            merged.append(span)
    return merged


def find_pii_in_documents(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> list[list[Span]]:
    """Spans of each document, relative to its first byte; documents are concatenated as Arrow keeps a string column."""
    kinds, positions, bounds = candidates.find_candidates(data, offsets)
    found: list[list[Span]] = [[] for _ in range(len(offsets) - 1)]
    for d in np.flatnonzero(np.diff(bounds)).tolist():
        start = int(offsets[d])
        text = data[start : int(offsets[d + 1])].tobytes()
        first, last = int(bounds[d]), int(bounds[d + 1])
        spans: list[Span] = []
        for kind, position in zip(kinds[first:last].tolist(), positions[first:last].tolist(), strict=True):
            if kind == candidates.DIGITS:
                spans += _digits(text, position - start)
            elif (span := _JUDGES[kind](text, position - start)) is not None:
                spans.append(span)
        if spans:
            found[d] = merge(spans)
    return found


def find_pii(text: str) -> list[Span]:
    """Spans of one text."""
    data = text.encode()
    return find_pii_in_documents(np.frombuffer(data, dtype=np.uint8), np.array([0, len(data)], dtype=np.int64))[0]


def redact(text: bytes, spans: Sequence[Span | tuple[str, int, int]]) -> bytes:
    """The UTF-8 text with each span replaced by its placeholder; nothing is searched for.

    Args:
        spans: (kind, start, end), half-open in bytes, in order and without overlaps.

    Raises:
        ValueError: a span lies outside the text, overlaps the one before or cuts a character.
    """
    if not spans:
        return text
    pieces: list[bytes] = []
    done = 0
    for kind, start, end in spans:
        if not done <= start <= end <= len(text):
            raise ValueError(
                f"span {kind} [{start}, {end}) must lie in [{done}, {len(text)}): in order, and inside the text"
            )
        if not (is_character_bound(text, start) and is_character_bound(text, end)):
            raise ValueError(f"span {kind} [{start}, {end}) cuts a character in two")
        pieces += (text[done:start], PLACEHOLDER.format(kind=kind).encode())
        done = end
    pieces.append(text[done:])
    return b"".join(pieces)


def is_character_bound(text: bytes, place: int) -> bool:
    """Whether no character of a UTF-8 text lies on both sides of a place."""
    return place == len(text) or text[place] & 0xC0 != 0x80
