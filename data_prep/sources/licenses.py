"""Licences of files as SPDX identifiers: from tags, from the text of licence files, and from notices in headers.

Sources: SPDX License List 3.27; SPDX 2.3, annex D (expressions) and annex E (tags in files). A licence text is
recognised by sentences that only it has, after its white space, case and punctuation are made uniform.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection

UNKNOWN = "LicenseRef-unknown"
"""Licence of a file whose licence text is not recognised."""

_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+() -]{1,200})")
_FILE_NAME = re.compile(
    r"(?:un)?licen[cs]e(?:[._-].{0,40})?|copying(?:[._-].{0,40})?|(?:mit|apache|bsd|gpl)-licen[cs]e(?:[._-].{0,20})?",
    re.IGNORECASE,
)
_NO_FILE_NAME = (".py", ".js", ".go", ".java", ".rb", ".c", ".h", ".cs", ".php", ".ts", ".html", ".json", ".rs")
_NOT_WORDS = re.compile(r"[^a-z0-9.]+")
_LONGEST = 100_000
"""Largest part of a licence file that is read; the longest text of the list below has 35 kB."""

_SENTENCES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("AGPL-3.0-only", ("gnu affero general public license version 3",)),
    ("LGPL-3.0-only", ("gnu lesser general public license version 3",)),
    ("LGPL-2.1-only", ("gnu lesser general public license version 2.1",)),
    ("LGPL-2.0-only", ("gnu library general public license version 2",)),
    ("GPL-3.0-only", ("gnu general public license version 3",)),
    ("GPL-2.0-only", ("gnu general public license version 2",)),
    ("Apache-2.0", ("apache license version 2.0",)),
    ("Apache-1.1", ("the apache software license version 1.1",)),
    ("MPL-2.0", ("mozilla public license version 2.0",)),
    ("MPL-2.0", ("mozilla public license v. 2.0",)),
    ("MPL-1.1", ("mozilla public license version 1.1",)),
    ("EPL-2.0", ("eclipse public license v 2.0",)),
    ("EPL-1.0", ("eclipse public license v 1.0",)),
    ("BSL-1.0", ("boost software license version 1.0",)),
    ("Artistic-2.0", ("the artistic license 2.0",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("CC-BY-SA-4.0", ("creative commons attribution sharealike 4.0",)),
    ("CC-BY-NC-4.0", ("creative commons attribution noncommercial 4.0",)),
    ("CC-BY-4.0", ("creative commons attribution 4.0",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("WTFPL", ("do what the fuck you want to public license",)),
    ("Zlib", ("the origin of this software must not be misrepresented",)),
    (
        "BSD-4-Clause",
        ("redistribution and use in source and binary forms", "all advertising materials mentioning features"),
    ),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "endorse or promote products derived")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms", "must retain the above copyright notice")),
    ("MIT", ("permission is hereby granted free of charge", "the above copyright notice and this permission notice")),
    ("MIT-0", ("permission is hereby granted free of charge", "the software is provided as is")),
    ("ISC", ("permission to use copy modify and or distribute this software", "provided that the above copyright")),
    ("ISC", ("permission to use copy modify and distribute this software", "provided that the above copyright")),
    ("0BSD", ("permission to use copy modify and or distribute this software for any purpose with or without fee is",)),
    ("MIT", ("released under the mit license",)),
    ("MIT", ("licensed under the mit license",)),
    ("MIT", ("under the terms of the mit license",)),
    ("BSD-3-Clause", ("use of this source code is governed by a bsd style license",)),
    ("Apache-2.0", ("licensed under the apache license",)),
    ("AGPL-3.0-or-later", ("gnu affero general public license",)),
    ("LGPL-2.1-or-later", ("gnu lesser general public license",)),
    ("GPL-2.0-or-later", ("gnu general public license",)),
)
"""Sentences by licence. Of those all of whose sentences are in a text, its own is the one that comes first, since texts
mention other licences later on. Notices of GNU licences that name no version allow any."""


def is_license_file(path: str) -> bool:
    """Return whether a file holds the licence of its folder, by its name."""
    name = os.path.basename(path)
    return bool(_FILE_NAME.fullmatch(name)) and not name.lower().endswith(_NO_FILE_NAME)


def license_of_text(text: str) -> str | None:
    """Return the SPDX expression of a licence text or a notice; None: there is none that is known."""
    tag = _TAG.search(text[:_LONGEST])
    if tag:
        return " ".join(tag[1].removesuffix("-->").removesuffix("*").rstrip(" -").split())
    words = _NOT_WORDS.sub(" ", text[:_LONGEST].lower()).replace(". ", " ")
    found = [(words.find(parts[0]), name) for name, parts in _SENTENCES if all(part in words for part in parts)]
    return min(found, key=lambda place_and_name: place_and_name[0])[1] if found else None


def is_allowed(expression: str, allowed: Collection[str]) -> bool:
    """Return whether a file under this SPDX expression may be used under one of the licences allowed.

    Of alternatives (`MIT OR GPL-2.0-only`) one has to be allowed, of cumulative licences (`AND`) all. An expression
    that is not well-formed is not allowed.
    """
    tokens = re.findall(r"[()]|[^\s()]+", expression)
    known = {name.lower() for name in allowed}
    try:
        result, rest = _alternatives(tokens, known, 0)
    except IndexError:
        return False
    return result and not rest


_DEEPEST = 20
"""Deepest nesting of an expression."""


def _alternatives(tokens: list[str], allowed: set[str], depth: int) -> tuple[bool, list[str]]:
    result, tokens = _cumulative(tokens, allowed, depth)
    while tokens and tokens[0].upper() == "OR":
        other, tokens = _cumulative(tokens[1:], allowed, depth)
        result = result or other
    return result, tokens


def _cumulative(tokens: list[str], allowed: set[str], depth: int) -> tuple[bool, list[str]]:
    result, tokens = _single(tokens, allowed, depth)
    while tokens and tokens[0].upper() == "AND":
        other, tokens = _single(tokens[1:], allowed, depth)
        result = result and other
    return result, tokens


def _single(tokens: list[str], allowed: set[str], depth: int) -> tuple[bool, list[str]]:
    if tokens[0] == "(" and depth < _DEEPEST:
        result, rest = _alternatives(tokens[1:], allowed, depth + 1)
        if rest[0] != ")":
            raise IndexError
        return result, rest[1:]
    name, rest = tokens[0].lower(), tokens[1:]
    if rest and rest[0].upper() == "WITH":  # an exception only adds permissions
        rest = rest[2:]
    return name in allowed or name.removesuffix("-only").removesuffix("-or-later") in allowed, rest
