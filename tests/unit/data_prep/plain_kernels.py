"""Slow plain twins of kernels that have none elsewhere, written from the definitions in their modules."""

from __future__ import annotations

import re
import unicodedata

from data_prep.kernels.characters import TERMINAL_RANGES
from data_prep.signals.pii.candidates import ACCOUNT, AT_SIGN, COLONS, DASHES, DIGITS, DOTTED_NUMBERS, TOKEN
from data_prep.signals.web_statistics import PAPER

_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_CITATION = re.compile(r"\[(?:[0-9]*|edit|citation needed)\]")
_SENTENCE_END = re.compile("([.?!\u3002\uff01\uff1f])[\"')\\].?!]*[\u2019\u201d]?")
_TITLE = re.compile(r"(?<![A-Za-z])(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Prof)$")


def sample(text: str, characters: int, pieces: int) -> str:
    """All of a short text, else pieces of as many characters, which begin at equal distances in bytes."""
    if len(text) <= characters:
        return text
    data, length = text.encode(), characters // pieces
    last = len(data) - len(text[len(text) - length :].encode())
    taken = []
    for k in range(pieces):
        begin = last * k // (pieces - 1)
        taken.append(data[begin:].decode(errors="ignore")[:length])
    return " ".join(taken)


def candidates(data: bytes) -> list[tuple[int, int]]:
    """Kind and place of each candidate of personal data, sorted."""
    found = [(AT_SIGN, m.start()) for m in re.finditer(rb"(?<=[A-Za-z0-9_\-./+=])@(?=[\x00-\xff])", data)]
    found += [(DOTTED_NUMBERS, m.start()) for m in re.finditer(rb"(?<![0-9.])[0-9]{1,3}(?=\.[0-9])", data)]
    for m in re.finditer(rb"[0-9a-fA-F:]+", data):
        if m[0].count(b":") >= 2 and re.search(rb"[0-9]", m[0]):
            found.append((COLONS, m.start()))
    for m in re.finditer(rb"[0-9](?:[ \-./()]{0,2}[0-9])*", data):
        if len(re.findall(rb"[0-9]", m[0])) >= 7:
            found.append((DIGITS, m.start()))
    found += [(ACCOUNT, m.start()) for m in re.finditer(rb"(?s)(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?=.)", data)]
    for m in re.finditer(rb"[A-Za-z0-9_\-./+=]{16,}", data):
        if re.search(rb"[0-9]", m[0]):
            found.append((TOKEN, m.start()))
    found += [(DASHES, m.start()) for m in re.finditer(rb"(?s)-(?=...-BEG...)", data)]
    return sorted(found)


def normalised_lines(text: str) -> list[tuple[str, int, int]]:
    """Each line in the form in which lines are compared for duplicates, and its byte range, line feed included."""
    lines, start = [], 0
    for line in text.split("\n"):
        stop = start + len(line.encode()) + 1
        kept = []
        for character in line.strip():
            kind = unicodedata.category(character)[0] if ord(character) < 0x40000 else "C"
            if character.isspace():
                kept.append(" ")
            elif kind in "LNM":
                kept.append("0" if character in "0123456789" else character.lower()[0])
        lines.append((" ".join("".join(kept).split(" ")), start, stop))
        start = stop
    size = len(text.encode())
    lines = [(" ".join(line.split()), start, min(stop, size)) for line, start, stop in lines]
    return [line for line in lines if line[1] < size]


def sentences(line: str) -> int:
    """Sentences of a line without white space at its ends."""
    count, begun, place = 0, 0, 0
    while (m := _SENTENCE_END.search(line, place)) is not None:
        behind = line[m.end() :]
        ends = m[1] in "\u3002\uff01\uff1f" or not behind
        if not ends and behind[0].isspace():
            following = behind[1:].lstrip(" ")
            is_title = m[1] == "." and _TITLE.search(line[max(0, m.start() - 5) : m.start()]) is not None
            ends = not ("a" <= following[:1] <= "z") and not is_title
        if ends:
            count, begun = count + 1, m.end()
        place = m.end()
    return count + (begun < len(line))


def c4_line(line: str, variant: int) -> tuple[int, str]:
    """Number of sentences of a line, 0 if it is removed; and what the page fails by: "{", "lorem" or ""."""
    line = _CITATION.sub("", line.strip())
    if not line.endswith((".", "?", "!", '"')) or line.endswith("..."):
        return 0, ""
    lowered = "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in line)
    words = line.split()
    is_refused = "javascript" in lowered or any(policy in lowered for policy in _POLICIES)
    if variant == PAPER:
        return (sentences(line) if len(words) >= 3 and not is_refused else 0), ""
    if len(words) < 5 or max(map(len, words)) > 1000:
        return 0, ""
    if "lorem ipsum" in lowered:
        return 0, "lorem"
    if "javascript" in lowered:
        return 0, ""
    if "{" in line:
        return 0, "{"
    return (0 if is_refused else sentences(line)), ""


def ends_sentence(line: str) -> bool:
    """Whether a line that is not blank ends a sentence."""
    return any(start <= ord(line.strip()[-1]) < stop for start, stop in TERMINAL_RANGES)
