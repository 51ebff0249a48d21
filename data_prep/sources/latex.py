"""LaTeX as one text: inputs inserted, comments removed, the author's macros expanded, title and references cut.

This follows LLaMA's treatment of arXiv (Touvron et al. 2023, arXiv:2302.13971, section 2: comments, "definitions and
macros written by users", everything before the first section and the bibliography are removed). Mathematics and LaTeX's
own commands are kept. This parses only the surface of TeX: macros that change TeX's parsing, or take arguments between
characters other than braces, are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_VERBATIM = re.compile(r"\\begin\{(verbatim\*?|lstlisting|minted|Verbatim)\}|\\verb\*?([^a-zA-Z\s*])")
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*(\n[ \t]*)?")
"""A comment sign may follow an even number of backslashes, which are line breaks; after an odd number it is text."""
_INPUT = re.compile(r"\\(?:input|include|subfile)\s*\{([^{}\\]+)\}|\\input\s+([^\s{}\\]+)")
_NEW_COMMAND = re.compile(
    r"\\(?:re|provide)?(?:newcommand|command)\*?\s*(?:\{\s*\\([a-zA-Z@]+)\s*\}|\\([a-zA-Z@]+))\s*(?:\[(\d)\])?\s*"
)
_DEF = re.compile(r"\\(?:long\s*)?[eg]?def\s*\\([a-zA-Z@]+)\s*((?:#\d)+\s*)?(?=\{)")
_OPERATOR = re.compile(r"\\DeclareMathOperator(\*?)\s*\{\s*\\([a-zA-Z@]+)\s*\}\s*(?=\{)")
_COMMAND = re.compile(r"\\([a-zA-Z@]+)")
_ENDS = re.compile(r"\\(?:bibliography|printbibliography)\b|\\begin\{thebibliography\}|\\end\{document\}")
_SECTION = re.compile(r"\\(?:section|chapter|part)\b\*?")
_BEGIN = re.compile(r"\\begin\{document\}")
_LONGEST_VERB = 1000
"""Largest number of characters of a `\\verb` on a line."""
_LONGEST_OPTIONAL = 300
"""Largest number of characters of an argument in square brackets."""
_DEEPEST = 20
_LARGEST_GROWTH = 10
"""Largest growth of a text by its macros, or by its inputs; a text beyond it is an attack, or not for people."""
_DEEPEST_INPUT = 100
"""Deepest nesting of inputs; TeX itself opens 15 files at once by default (`max_in_open` of texmf.cnf)."""


class MacroError(ValueError):
    """The macros of a text, or the files that it inputs, do not terminate."""


def whole_text(files: Mapping[str, str], main: str) -> str:
    """Return the main file with its inputs inserted, without comments; missing files are omitted.

    Raises:
        MacroError: files input others too often or too deep, see `_LARGEST_GROWTH`.
    """
    return _Inputs(files).put_in(main, ())


def main_file(files: Mapping[str, str]) -> str | None:
    """Return the main file: the longest of those with `\\begin{document}`, or of all files if there is none."""
    names = sorted(files, key=lambda name: (-len(files[name]), name))
    documents = [name for name in names if _BEGIN.search(_without_comments(files[name]))]
    return next(iter([*documents, *names]), None)


def body(text: str) -> str:
    """Return the text from the first section to the references; without a section from `\\begin{document}`, or from the
    start."""
    begin = _BEGIN.search(text)
    start = begin.end() if begin else 0
    end = _ENDS.search(text, start)
    stop = end.start() if end else len(text)
    section = _SECTION.search(text, start, stop)
    return text[section.start() if section else start : stop].strip()


class _Inputs:
    """Insertion of inputs; each counts as often as it is inserted, since twenty files with two inputs each make a
    million."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files
        self._left = _LARGEST_GROWTH * sum(map(len, files.values()))

    def put_in(self, name: str, above: tuple[str, ...]) -> str:
        """Return a file with its inputs inserted, except those that input it."""
        self._left -= len(self._files[name])
        if self._left < 0:
            raise MacroError(f"\\input makes it {_LARGEST_GROWTH} times as long as all its files")
        if len(above) > _DEEPEST_INPUT:
            raise MacroError(f"\\input is nested more than {_DEEPEST_INPUT} deep")

        def put(match: re.Match[str]) -> str:
            wanted = (match.group(1) or match.group(2)).strip().removeprefix("./")
            found = next((path for path in (wanted, f"{wanted}.tex") if path in self._files), None)
            return "" if found is None or found in (*above, name) else self.put_in(found, (*above, name))

        return _INPUT.sub(put, _without_comments(self._files[name]))


def _without_comments(text: str) -> str:
    """Remove comments with their line feed and the spaces after it, as TeX does; `\\%` and verbatim text are kept."""
    pieces: list[str] = []
    done = 0  # copied to `pieces` up to here
    looked = 0  # searched for comments up to here, so that a long line is searched once
    in_comment = False
    unended: set[str] = set()
    for match in _VERBATIM.finditer(text):
        start = match.start()
        if start < done:
            continue
        line_start = text.rfind("\n", looked, start) + 1
        in_comment = (in_comment and not line_start) or bool(_COMMENT.search(text, max(looked, line_start), start))
        looked = start
        end = None if in_comment else _end_of_verbatim(text, match, unended)
        if end is not None:
            pieces += [_COMMENT.sub(_cut, text[done:start]), text[start:end]]
            done = looked = end
    return "".join([*pieces, _COMMENT.sub(_cut, text[done:])])


def _end_of_verbatim(text: str, match: re.Match[str], unended: set[str]) -> int | None:
    """Return where verbatim text ends, on its line or with its environment; None if it does not."""
    if match[1]:
        sign, stop = f"\\end{{{match[1]}}}", len(text)
    else:
        sign, stop = match[2], match.end() + _LONGEST_VERB
    if sign in unended and match[1]:
        return None
    end = text.find(sign, match.end(), stop)
    if end < 0 or (match[2] and "\n" in text[match.end() : end]):
        unended.add(sign)
        return None
    return end + len(sign)


def _cut(match: re.Match[str]) -> str:
    ends_paragraph = match.group(2) is not None and match.string[match.end() : match.end() + 1] == "\n"
    return match.group(1) + ("\n" if ends_paragraph else "")


# ---------------------------------------------------------------------------------------------------------------------
# macros


@dataclass(frozen=True)
class Macro:
    """Definition of a command: `#1` to `#9` in its body are arguments, the first of which may have a default."""

    arguments: int
    default: str | None
    body: str


def expand_macros(text: str) -> str:
    """Remove the definitions of commands from a text, and replace their uses.

    A definition applies to the whole text; if a command has several, the last one does. A command defined by itself, as
    with `\\renewcommand`, is kept.

    Raises:
        MacroError: expansion makes the text more than ten times as long, or does not end.
    """
    text, macros = _take_definitions(text)
    macros = {name: macro for name, macro in macros.items() if not _uses(macro.body, name)}
    limit = _LARGEST_GROWTH * len(text) + 10_000
    for _ in range(_DEEPEST):
        expanded = _expand_once(text, macros, limit)
        if expanded == text:
            return text
        text = expanded
    raise MacroError(f"its macros still expand after {_DEEPEST} rounds")


def _uses(text: str, name: str) -> bool:
    return any(match.group(1) == name for match in _COMMAND.finditer(text))


def _take_definitions(text: str) -> tuple[str, dict[str, Macro]]:
    macros: dict[str, Macro] = {}
    pieces: list[str] = []
    done = 0
    ends = _ends_of_groups(text)
    for start, match in _definitions(text):
        if start < done:
            continue
        name, arguments, default, place = _head(text, match)
        found = _group(text, place, ends)
        if found is None:
            continue
        inner, end = found
        if match.re is _OPERATOR:
            inner = rf"\operatorname{match.group(1)}{{{inner}}}"
        macros[name] = Macro(arguments, default, inner)
        pieces.append(text[done:start])
        done = end
        if text[done : done + 1] == "\n":
            done += 1
    return "".join([*pieces, text[done:]]), macros


def _definitions(text: str) -> Iterator[tuple[int, re.Match[str]]]:
    found = [match for pattern in (_NEW_COMMAND, _DEF, _OPERATOR) for match in pattern.finditer(text)]
    yield from sorted(((match.start(), match) for match in found), key=lambda item: item[0])


def _head(text: str, match: re.Match[str]) -> tuple[str, int, str | None, int]:
    """Return the name, number of arguments, default of the first and start of the body."""
    place, default = match.end(), None
    if match.re is _DEF:
        return match.group(1), (match.group(2) or "").count("#"), None, place
    if match.re is _OPERATOR:
        return match.group(2), 0, None, place
    if match.group(3) and text[place : place + 1] == "[":
        found = _optional(text, place)
        if found is not None:
            default, place = found
    return match.group(1) or match.group(2), int(match.group(3) or 0), default, place


def _expand_once(text: str, macros: Mapping[str, Macro], limit: int) -> str:
    pieces: list[str] = []
    size = done = 0
    ends = _ends_of_groups(text) if macros else {}
    for match in _COMMAND.finditer(text):
        macro = macros.get(match.group(1))
        if macro is None or match.start() < done or _is_escaped(text, match.start()):
            continue
        found = _arguments(text, match.end(), macro, ends)
        if found is None:
            continue
        values, end = found
        expansion = _put_arguments(macro.body, values)
        pieces += [text[done : match.start()], expansion]
        size += match.start() - done + len(expansion)
        if size > limit:
            raise MacroError(f"its macros make it more than {_LARGEST_GROWTH} times as long")
        done = end
    return "".join([*pieces, text[done:]])


def _put_arguments(text: str, values: list[str]) -> str:
    def value(use: re.Match[str]) -> str:
        number = int(use.group(1))
        return values[number - 1] if 1 <= number <= len(values) else use.group()

    return re.sub(r"#(\d)", value, text.replace("\\xspace", ""))


def _arguments(text: str, place: int, macro: Macro, ends: Mapping[int, int]) -> tuple[list[str], int] | None:
    """Return the arguments of a use and where it ends; None if they are missing."""
    values: list[str] = []
    if macro.arguments == 0 and text[place : place + 2] == "{}":
        place += 2  # it only ended the command's name
    for number in range(macro.arguments):
        while text[place : place + 1].isspace():
            place += 1
        if number == 0 and macro.default is not None:
            found = _optional(text, place) if text[place : place + 1] == "[" else (macro.default, place)
        elif text[place : place + 1] == "{":
            found = _group(text, place, ends)
        else:
            command = _COMMAND.match(text, place)
            end = command.end() if command else place + 1
            found = (text[place:end], end) if place < len(text) else None
        if found is None:
            return None
        value, place = found
        values.append(value)
    return values, place


_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def _ends_of_groups(text: str) -> dict[int, int]:
    """Return the position of the closing brace for each matched opening brace, in one pass."""
    ends: dict[int, int] = {}
    opened: list[int] = []
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            ends[opened.pop()] = match.start()
    return ends


def _group(text: str, place: int, ends: Mapping[int, int]) -> tuple[str, int] | None:
    """Return the text between matching braces, and where it ends."""
    end = ends.get(place)
    return None if end is None else (text[place + 1 : end], end + 1)


def _optional(text: str, place: int) -> tuple[str, int] | None:
    """Return the text between square brackets, and where it ends; braces inside are matched."""
    depth = braces = 0
    position = place
    stop = min(len(text), place + _LONGEST_OPTIONAL)
    while position < stop:
        character = text[position]
        if character == "\\":
            position += 2
            continue
        if character in "{}":
            braces += 1 if character == "{" else -1
        elif character == "[":
            depth += 1
        elif character == "]" and braces == 0:
            depth -= 1
            if depth == 0:
                return text[place + 1 : position], position + 1
        position += 1
    return None


def _is_escaped(text: str, place: int) -> bool:
    """Return whether this backslash is the second of a line break, `\\\\name`."""
    slashes = 0
    while place > slashes and text[place - slashes - 1] == "\\":
        slashes += 1
    return slashes % 2 == 1
