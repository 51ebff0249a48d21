"""Keys, tokens and passwords: of a known form, after a name such as `api_key`, and private keys in PEM."""

from __future__ import annotations

import math
import re
from collections import Counter

from data_prep.signals.pii.spans import Span

_KNOWN_KEY = re.compile(
    rb"(?:"
    rb"(?:AKIA|ASIA)[0-9A-Z]{16}"  # AWS access key id
    rb"|gh[pousr]_[0-9A-Za-z]{36,255}|github_pat_[0-9A-Za-z_]{22,255}"
    rb"|gl(?:pat|ptt|dt|rt)-[0-9A-Za-z_-]{20,}"
    rb"|xox[abeoprs]-(?=[A-Za-z-]{0,200}[0-9])[0-9A-Za-z-]{10,}"  # Slack
    rb"|AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{20,}|GOCSPX-[0-9A-Za-z_-]{28}"  # Google
    rb"|sk-(?:proj|ant|svcacct|admin|or|lf)-(?=[A-Za-z_-]{0,200}[0-9])[0-9A-Za-z_-]{20,}"  # OpenAI, Anthropic, ...
    rb"|sk-(?=[A-Za-z]{0,200}[0-9])[0-9A-Za-z]{20,}"
    rb"|[srp]k_(?:live|test)_[0-9A-Za-z]{16,}|whsec_[0-9A-Za-z]{32,}"  # Stripe
    rb"|hf_[A-Za-z0-9]{30,}|npm_[0-9A-Za-z]{36}|pypi-AgEI[0-9A-Za-z_-]{50,}|dop_v1_[0-9a-f]{64}"
    rb"|SG\.[0-9A-Za-z_-]{16,32}\.[0-9A-Za-z_-]{16,64}"  # SendGrid
    rb"|eyJ[0-9A-Za-z_-]{10,}\.eyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{10,}"  # JSON web token
    rb")(?![0-9A-Za-z_])"
)
_PRIVATE_KEY_BEGIN = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PRIVATE_KEY_END = re.compile(rb"-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PRIVATE_KEY_BYTES = (32, 16_384)
"""Least and largest number of bytes between the two lines."""
_BASE64_LINE = re.compile(rb"[0-9A-Za-z+/]{32}")
_KEY_NAME_BEFORE = re.compile(
    rb"(?:api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|client[_-]?secret|auth[_-]?token|access[_-]?token"
    rb"|api[_-]?token|bearer|secret|password|passwd|(?<!public)(?<!public[_-])(?<!publickey)(?<!data-)token)"
    rb"[\"'\]]{0,2}(?:\s{0,3}(?::=|=>|[:=])\s{0,3}|[ \t]{1,3})[\"'`]?\Z",
    re.IGNORECASE,
)
_NAMED_KEY = re.compile(rb"[0-9A-Za-z_+/.=-]{16,256}")
_TOKEN = re.compile(rb"[0-9A-Za-z_./+=-]+")
_HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]+\Z")
_SEPARATOR = re.compile(rb"[._/-]")
_WORD = re.compile(rb"(?:[A-Z]+|[a-z]*(?:[A-Z][a-z]+)*)(?:[0-9]{1,5}(?:[A-Z][a-z]+)*)?\Z")
_VOWEL = re.compile(rb"[AEIOUYaeiouy]")
_MOST_BYTES_WITHOUT_VOWEL = 4
MINIMUM_HEXADECIMAL_ENTROPY = 3.0
MINIMUM_ENTROPY = 4.0
"""Least entropy in bits per character. detect-secrets requires 3.0 of hexadecimal and 4.5 of base64 strings anywhere;
the latter needs 23 different characters, more than a 20-character key often has, so 4.0 is enough after a name."""


def entropy(text: bytes) -> float:
    """Return the Shannon entropy of the bytes, in bits per byte."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def key(data: bytes, at: int) -> Span | None:
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
    if not has_both or entropy(value) < least or (not is_hexadecimal and _is_made_of_words(value)):
        return None
    return Span("KEY", start, start + len(value))


def _is_made_of_words(value: bytes) -> bool:
    """Return whether it is code or a placeholder, such as `Ed25519PrivateKey.from_bytes` and `your-api-key-1`: words
    with vowels between separators. Fewer than one in a thousand random keys have this form."""
    parts = _SEPARATOR.split(value)
    return len(parts) >= (2 if b"." in value else 3) and all(
        part and _WORD.match(part) and (len(part) <= _MOST_BYTES_WITHOUT_VOWEL or part.isdigit() or _VOWEL.search(part))
        for part in parts
    )


def private_key(data: bytes, at: int) -> Span | None:
    begin = _PRIVATE_KEY_BEGIN.match(data, at)
    if begin is None:
        return None
    least, most = _PRIVATE_KEY_BYTES
    dashes = data.find(b"-----", begin.end(), begin.end() + most)
    end = _PRIVATE_KEY_END.match(data, dashes) if dashes - begin.end() >= least else None
    if end is None or not _BASE64_LINE.search(data, begin.end(), dashes):
        return None  # without a line of base64 it is code that handles keys
    return Span("KEY", at, end.end())
