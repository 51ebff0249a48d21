"""User names: `@jane`, where the source asks for them.

BigScience redacted them as `PI:USER` (Laurençon et al. 2022, arXiv:2303.03915): an at sign that begins a line or
follows white space, punctuation or a Chinese character, and three or more characters after it that are none of these.
In source code that is every decorator, so it is a setting of each source. Two things are narrower here: punctuation at
the end is no part of a name, and a name has a letter, unlike the price in `5 pieces @99.50`.
"""

from __future__ import annotations

import regex

from data_prep.signals.pii.spans import Span

KIND = "USER"
_NAME = regex.compile(r"(?<=^|[\s@,?!;:'\"()\p{Han}])@([^\s@,?!;:'\"()\p{Han}]{3,})", regex.MULTILINE)
_NO_END = ".…-_/&#*<>[]{}|=+~、。"
_LEAST_CHARACTERS = 3


def find_user_names(text: bytes) -> list[Span]:
    """Return the user names of a UTF-8 text."""
    if b"@" not in text:
        return []
    spans: list[Span] = []
    whole = text.decode()
    done = place = 0
    for match in _NAME.finditer(whole):
        name = match[1].rstrip(_NO_END)
        if len(name) < _LEAST_CHARACTERS or not any(map(str.isalpha, name)):
            continue
        start = match.start()
        place += len(whole[done:start].encode())
        done = start
        spans.append(Span(KIND, place, place + 1 + len(name.encode())))
    return spans
