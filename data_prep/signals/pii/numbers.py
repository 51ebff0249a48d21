"""Payment cards, IBANs and phone numbers.

Digits alone are weak evidence: a tenth of all numbers pass Luhn, and any number can be a phone number. So a card number
without a word for it must not look like an identifier, an expression or a part of a table, and an international phone
number must have a length that its country's numbering plan allows.
"""

from __future__ import annotations

import re

from data_prep.signals.pii.spans import Span

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
_CARD_NAME_BEFORE = re.compile(
    rb"(?:\b(?:cards?|credit|debit|visa|master ?card|maestro|amex|american express|discover|diners|jcb|unionpay|pan|cc"
    rb"|(?:kredit)?karte\w*|carte|tarjeta|cart[\xc3a][\xa3o]\w*|carta|kaart|karta)"
    rb"|\xd0\xba\xd0\xb0\xd1\x80\xd1\x82"  # карт
    rb"|\xe5\x8d\xa1|\xe3\x82\xab\xe3\x83\xbc\xe3\x83\x89|\xec\xb9\xb4\xeb\x93\x9c)[^\n]{0,40}\Z",  # 卡 カード 카드
    re.IGNORECASE,
)
_LEAST_CARD_DIGITS_WITHOUT_NAME, _MOST_CARD_DIGITS_WITHOUT_NAME = 14, 16
"""Lengths of ambiguous numbers: EAN-13 and times in milliseconds have 13 digits, 64-bit identifiers and hashes 18 or
19."""
_EXPRESSION_BEFORE = re.compile(rb"(?:[-/_#&%$*]|[([]\d{1,4}, ?|\d{5}[,;] ?)\Z")
_EXPRESSION_AFTER = re.compile(rb"[-/_#&%*^([]|[,;] ?-?\d{5}|[,;] ?-\d")
"""Contexts of addresses, formulas and lists of long numbers."""
_TABLE_BEFORE = re.compile(rb"(?:(?<![0-9A-Za-z])(?:\d{1,3}[ ]|[0-9A-F]{4,6}\s))\Z")
_TABLE_AFTER = re.compile(rb"\s(?!(?:0[1-9]|1[0-2])[2-9]\d\b)[0-9A-F]{4,6}(?![0-9A-Za-z/-])")
"""Further groups of digits next to four groups of four; 0827 is the month in which a card expires."""

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
"""Length of an IBAN by country. Source: SWIFT, IBAN registry, release 99."""

_DIGIT_RUN = re.compile(rb"\d+(?:[ ./()-]{1,2}\d+)*")
_NUMBER = re.compile(rb"\d+")
_PHONE = re.compile(
    rb"(?:"
    # international; groups of at most five digits, into which a run can be divided in only one way
    rb"\+(?:[1-9]\d{2}|[1-9]\d?(?!\d))(?:[ .-]?\(0?\d{1,4}\))?(?:[ .-]?(?:\d{5}(?=\d)|\d{1,5}(?!\d))){1,6}"
    rb"|(?:1[ .-])?\([2-9]\d{2}\) ?[2-9]\d{2}[ .-]\d{4}"  # (212) 555-0123
    rb"|(?<!\d)(?:1[ .-])?[2-9]\d{2}([.-])[2-9]\d{2}\1\d{4}"  # 212-555-0123
    rb")(?![\w]|[-.,/:]\d)"
)
_NATIONAL_PHONE = re.compile(rb"\(?0?\d{1,5}\)?(?:[ ./-]{1,2}\(?\d{1,8}\)?){0,6}(?![\w]|[-.,/:]\d)")
_PHONE_NAME_BEFORE = re.compile(
    rb"(?:\b(?:tel|telephone|phone|phone number|fax|mobile|cell|call|whatsapp|telefon|telefono|handy|mobil|t\xc3\xa9l"
    rb"|t\xc3\xa9l\xc3\xa9phone|tel\xc3\xa9fono|telefone)\.?"
    rb"|(?<![\x80-\xff])\xd1\x82\xd0\xb5\xd0\xbb(?:\xd0\xb5\xd1\x84\xd0\xbe\xd0\xbd)?\.?"  # тел, телефон
    rb"|\xe2\x98\x8e|\xe7\x94\xb5\xe8\xaf\x9d|\xe9\x9b\xbb\xe8\xa9\xb1)"
    rb"[ \t]{0,2}(?:[:.=]|\xef\xbc\x9a)?[ \t]{0,3}\Z",
    re.IGNORECASE,
)
_WORD_OF_OTHER_MEANINGS_BEFORE = re.compile(rb"\b(?:call|cell|mobile?|handy)[ \t]{1,3}\Z", re.IGNORECASE)
"""Ambiguous words, such as for a system call or a spreadsheet's cell: the number after them must be in groups."""
_IDENTIFIER_NAME_BEFORE = re.compile(
    rb"\b(?:order|invoice|case|ticket|part|item|sku|serial|model|ref|reference|account|acct|tracking|catalog(?:ue)?"
    rb"|docket|patent|product|batch|lot|licen[sc]e|permit|claim|policy|isbn|issn|id|bug|issue)"
    rb"[ \t]{0,2}(?:numbers?|no\.?|num\.?|nr\.?|ids?|code|#)?[ \t]{0,2}[:#=]?[ \t]{0,2}#?\Z",
    re.IGNORECASE,
)
_DATE = re.compile(
    rb"(?:\+?\d{4}[-/.][01]\d[-/.][0-3]\d|[0-3]?\d[-/.][0-3]?\d[-/.](?:19|20)\d\d|(?:19|20)\d\d ?- ?(?:19|20)\d\d"
    rb"|\+(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[01]\d[0-5]\d|2[0-3][0-5]\d)?(?:[0-5]\d)?)\Z"
)
"""`2016-06-02`, `+1980-02-29`, `31.12.2020`, `1999-2003`, and `+20191229111838` of a version."""
_DECIMAL = re.compile(rb"\+\d+\.\d+\Z")
_COORDINATES = re.compile(
    rb"\+(?:[0-8]\d[0-5]\d-(?:0\d|1[0-7])\d[0-5]\d|(?:[0-8]\d(?:[0-5]\d){2})-(?:0\d|1[0-7])\d(?:[0-5]\d){2})\Z"
)
"""ISO 6709, as in `zone.tab`: `+3339-00735`, `+404251-0740023`."""
_TRUNK_PREFIX = re.compile(rb"\(0(\d{0,4})\)")

_NATIONAL_DIGITS: dict[bytes, tuple[int, int]] = {
    code.encode(): (int(least), int(most))
    for lengths, codes in {
        "7-10": (
            "211 212 213 216 218 220 221 222 223 224 225 226 227 228 229 230 231 232 233 234 235 236 237 238 239 "
            "240 241 242 243 244 245 246 248 249 250 251 252 253 254 255 256 257 258 260 261 262 263 264 265 266 "
            "267 268 269 20 60 62 64 66 82 84 91 92 93 94 95 98 350 351 353 354 355 356 357 359 370 371 372 373 "
            "374 375 377 380 382 383 385 386 387 389 420 421 423 501 502 503 504 505 506 507 508 509 590 591 592 "
            "593 594 595 596 598 599 850 852 853 855 856 880 886 960 961 962 963 964 965 966 967 968 970 971 972 "
            "973 974 975 976 977 992 993 994 995 996 998 800 808 870 878 888 979"
        ),
        "4-8": "247 290 291 297 298 299 500 597 670 672 673 674 675 676 677 678 679 680 681 682 683 685 686 687 688 689"
        " 690 691 692",
        "10-10": "1 7 90",
        "9-10": "27 30 44 81",
        "9-11": "31 86",
        "8-9": "32 33 34 36 40 47 48 51 56",
        "8-10": "41 45 52 53 54 55 57 58 61 63 65",
        "6-13": "43 46 49 39 352 358 376 378 379 381 881 882 883",
    }.items()
    for code in codes.split()
    for least, _, most in [lengths.partition("-")]
}
"""Number of digits after the country code, by country code. Source: ITU-T E.164 and its list of assigned country codes;
ranges include old plans and machine numbers, so they are wider than those in use."""
_TOLERANCE, _LEAST_GROUPS = 1, 3
"""Tolerated difference in digits of numbers in three or more groups, for typing errors."""
_MOST_SINGLE_DIGITS = 2
"""Number of one-digit groups after the country code: the area code of Dublin, or the 5 of `+7 (495) 633-5-633`."""
_LEAST_PHONE_DIGITS, _MOST_PHONE_DIGITS = 7, 15
"""Largest number of digits, by ITU-T E.164."""
_LOCAL_AMERICAN = re.compile(rb"\+1[ .-][2-9]\d\d[ .-]\d{4}\Z")
"""Numbers without an area code, as in examples: `+1 555 0123`."""


def iban(data: bytes, at: int) -> Span | None:
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


def cards_and_phones(data: bytes, at: int) -> list[Span]:
    """Find cards and phone numbers in the run of digits and separators that begins at `at`."""
    run = _DIGIT_RUN.match(data, at)
    assert run is not None, "a candidate begins with a digit"
    stop = min(run.end() + 2, len(data))  # to see what follows
    spans: list[Span] = []
    position = at
    while (match := _CARD.search(data, position, stop)) is not None:
        if _is_card(data, match):
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
        if _is_phone(data, match):
            spans.append(Span("PHONE", match.start(), match.end()))
            position = match.end()
        else:
            position = match.start() + 1
    return spans


def _passes_luhn(digits: bytes) -> bool:
    total = 0
    for place, byte in enumerate(reversed(digits)):
        digit = byte - 0x30
        if place % 2:
            digit = digit * 2 - 9 if digit > 4 else digit * 2
        total += digit
    return total % 10 == 0


def _is_card(data: bytes, match: re.Match[bytes]) -> bool:
    digits = bytes(byte for byte in match[0] if byte not in b" -")
    if _CARD_DIGITS.match(digits) is None or len(set(digits)) == 1 or not _passes_luhn(digits):
        return False
    start, end = match.span()
    if _joins_before(data, start):
        return False
    before = data[max(start - 64, 0) : start]
    if _CARD_NAME_BEFORE.search(before):
        return True
    if not _LEAST_CARD_DIGITS_WITHOUT_NAME <= len(digits) <= _MOST_CARD_DIGITS_WITHOUT_NAME:
        return False
    if _EXPRESSION_BEFORE.search(before) or _EXPRESSION_AFTER.match(data, end, end + 16):
        return False
    is_in_groups = len(match[0]) > len(digits)
    return not (is_in_groups and (_TABLE_BEFORE.search(before) or _TABLE_AFTER.match(data, end, end + 16)))


def _joins_before(data: bytes, at: int) -> bool:
    """Return whether the preceding text makes the digits at `at` a part of a longer number or name."""
    before = data[max(at - 2, 0) : at]
    if not before:
        return False
    last = before[-1:]
    if last.isalnum() or last == b"_":
        return True
    return last in (b".", b",", b"-", b"/", b":", b"=") and len(before) == 2 and before[:1].isdigit()


def _national_phone(data: bytes, start: int) -> Span | None:
    """Find a number of no particular form directly after a word for phones."""
    before = data[max(start - 24, 0) : start]
    if not _PHONE_NAME_BEFORE.search(before):
        return None
    match = _NATIONAL_PHONE.match(data, start)
    if match is None:
        return None
    number = match[0]
    if number.count(b"(") < number.count(b")"):
        number = number.rstrip(b")")
    if not _LEAST_PHONE_DIGITS <= _count_digits(number) <= _MOST_PHONE_DIGITS or _DATE.match(number):
        return None
    if number.isdigit() and _WORD_OF_OTHER_MEANINGS_BEFORE.search(before):
        return None
    return Span("PHONE", start, start + len(number))


def _is_phone(data: bytes, match: re.Match[bytes]) -> bool:
    start, number = match.start(), match[0]
    if not _LEAST_PHONE_DIGITS <= _count_digits(number) <= _MOST_PHONE_DIGITS or _joins_before(data, start):
        return False
    if number.startswith(b"+"):
        return _is_international(data, start, number)
    return not _IDENTIFIER_NAME_BEFORE.search(data[max(start - 32, 0) : start])


def _is_international(data: bytes, start: int, number: bytes) -> bool:
    if data[max(start - 1, 0) : start] in (b"+", b"~"):  # C++11, 1:10~+2019
        return False
    if _DATE.match(number) or _COORDINATES.match(number):
        return False
    is_named = _PHONE_NAME_BEFORE.search(data[max(start - 24, 0) : start]) is not None
    if is_named:
        return True
    if _DECIMAL.match(number):
        return False
    if _LOCAL_AMERICAN.match(number):
        return True
    groups = _NUMBER.findall(number)
    if len(groups[-1]) < 2 or sum(len(group) == 1 for group in groups[1:]) > _MOST_SINGLE_DIGITS:
        return False
    digits = b"".join(_NUMBER.findall(_TRUNK_PREFIX.sub(rb"\1", number)))
    for length in (1, 2, 3):
        least, most = _NATIONAL_DIGITS.get(digits[:length], (0, -1))
        if most > 0:
            tolerance = _TOLERANCE if len(groups) >= _LEAST_GROUPS else 0
            return least - tolerance <= len(digits) - length <= most + tolerance
    return False


def _count_digits(number: bytes) -> int:
    return sum(0x30 <= byte <= 0x39 for byte in number)
