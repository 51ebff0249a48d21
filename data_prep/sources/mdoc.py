"""Manual pages written with the `mdoc` macros of BSD, turned into plain text.

Source of the language: mdoc(7), groff_mdoc(7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_prep.sources.roff import Roff

_CLOSING = frozenset(".,:;)]?!")
_OPENING = frozenset("([")
_PAIRS = {
    "Dq": "“”", "Sq": "‘’", "Qq": '""', "Pq": "()", "Bq": "[]", "Aq": "<>", "Brq": "{}", "Ql": "‘’", "Op": "[]",
}  # fmt: skip
_OPENERS = {"Do": "“", "So": "‘", "Qo": '"', "Po": "(", "Bo": "[", "Ao": "<", "Bro": "{", "Oo": "[", "Eo": "", "Xo": ""}
_CLOSERS = {"Dc": "”", "Sc": "’", "Qc": '"', "Pc": ")", "Bc": "]", "Ac": ">", "Brc": "}", "Oc": "]", "Ec": "", "Xc": ""}
_PLAIN = frozenset(
    [
        "Ar",
        "Cm",
        "Ic",
        "Pa",
        "Em",
        "Sy",
        "Li",
        "Va",
        "Vt",
        "Ev",
        "Dv",
        "Er",
        "An",
        "Fa",
        "Ft",
        "Fd",
        "Ad",
        "Tn",
        "No",
        "Cd",
        "Cn",
        "St",
        "Lb",
        "Ms",
        "Me",
        "Ql",
        "Sx",
        "Mt",
        "Lk",
        "Nd",
        "Nm",
        "Fl",
        "Fn",
        "Xr",
        "In",
        "Ux",
        "Bx",
        "Fx",
        "Nx",
        "Ox",
        "Dx",
        "Bsx",
        "At",
        "Ap",
        "Pf",
        "Ns",
    ]
)
_SYSTEMS = {
    "Ux": "UNIX",
    "Bx": "BSD",
    "Fx": "FreeBSD",
    "Nx": "NetBSD",
    "Ox": "OpenBSD",
    "Dx": "DragonFly",
    "Bsx": "BSD/OS",
    "At": "AT&T UNIX",
}
_REFERENCE = {"%A", "%B", "%C", "%D", "%I", "%J", "%N", "%O", "%P", "%Q", "%R", "%T", "%U", "%V"}
_GLUE = "\x03"
"""Stands where two words touch."""


class Mdoc:
    """Takes the rest of a page's lines from a `Roff` and writes to the same output."""

    def __init__(self, roff: Roff) -> None:
        self._roff = roff
        self._output = roff.output
        self._name = ""
        self._lists: list[str] = []
        self._reference: list[str] | None = None

    def convert(self) -> None:
        while (line := self._roff.next_line()) is not None:
            if line[:1] in (".", "'") and line[1:].lstrip()[:2] not in ('\\"', "\\#", ""):
                self._macro(line[1:].lstrip())
            elif line[:1] not in (".", "'"):
                self._roff.interpret(line)

    def _macro(self, line: str) -> None:
        from data_prep.sources.roff import split_arguments

        comment = line.find('\\"')
        words = split_arguments(line[:comment] if comment >= 0 else line)
        if not words:
            return
        name, arguments = words[0], words[1:]
        if name == "Dt":
            section = f"({arguments[1]})" if len(arguments) > 1 else ""
            self._output.line(f"{arguments[0] if arguments else ''}{section}")
        elif name in ("Sh", "Ss"):
            self._output.is_filling = True
            self._output.heading(self._inline(arguments))
        elif name in ("Pp", "Lp", "sp"):
            self._output.end_paragraph()
        elif name == "br":
            self._output.end_line()
        elif name == "Bl":
            self._output.end_paragraph()
            self._lists.append(next((word for word in arguments if word.startswith("-")), "-item"))
        elif name == "El":
            self._output.end_paragraph()
            if self._lists:
                self._lists.pop()
        elif name == "It":
            self._item(arguments)
        elif name == "Bd":
            self._output.end_paragraph()
            self._output.is_filling = not ({"-literal", "-unfilled"} & set(arguments))
        elif name == "Ed":
            self._output.is_filling = True
            self._output.end_paragraph()
        elif name in ("D1", "Dl"):
            self._output.line("    " + self._inline(arguments))
        elif name == "Nd":
            self._output.word("— " + self._inline(arguments))
        elif name in ("Dd", "Os", "Bk", "Ek", "Sm", "Db", "Bf", "Ef", "Hf"):
            pass
        elif name == "Rs":
            self._reference = []
        elif name == "Re":
            self._output.word(", ".join(self._reference or []) + ".")
            self._reference = None
        elif name in _REFERENCE:
            (self._reference if self._reference is not None else []).append(self._inline(arguments))
        elif name == "Fo":
            self._output.word(self._roff.escapes(arguments[0] if arguments else "") + "(" + "\x02")
        elif name == "Fc":
            self._output.word(")" + self._inline(arguments))
        elif name in ("Ex", "Rv"):
            self._output.word(_EXIT_TEXT if name == "Ex" else _RETURN_TEXT)
        elif name in _PLAIN or name in _PAIRS or name in _OPENERS or name in _CLOSERS:
            if name == "Nm" and not self._name and arguments:
                self._name = arguments[0]
            self._output.word(self._inline(words))
        else:
            self._roff.request(line)

    def _item(self, arguments: list[str]) -> None:
        kind = self._lists[-1] if self._lists else "-item"
        self._output.end_paragraph() if kind in (
            "-tag",
            "-ohang",
            "-hang",
            "-inset",
            "-diag",
        ) else self._output.end_line()
        if kind in ("-bullet", "-dash", "-hyphen"):
            self._output.word("•" if kind == "-bullet" else "-")
        elif kind == "-column":
            cells: list[str] = []
            cell: list[str] = []
            for word in [*arguments, "Ta"]:
                if word == "Ta":
                    cells.append(self._inline(cell))
                    cell = []
                else:
                    cell.append(word)
            self._output.line("\t".join(cells).replace(" \t", "\t"))
        elif arguments:
            self._output.word(self._inline(arguments))
            if arguments[-1] != "Xo":
                self._output.end_line()

    def _inline(self, words: list[str]) -> str:
        """Words and the macros among them as text."""
        pieces: list[str] = []
        closers: list[str] = []  # brackets that close at the end of the line, before its punctuation
        index = 0
        while index < len(words):
            word = words[index]
            index += 1
            if word in _PAIRS and (index > 1 or len(words) > 1):
                pieces += [_PAIRS[word][0], _GLUE]
                closers.append(_PAIRS[word][1])
            elif word in _OPENERS:
                pieces += [_OPENERS[word], _GLUE]
            elif word in _CLOSERS:
                pieces += [_GLUE, _CLOSERS[word]]
            elif word in ("Ns", "Ap"):
                pieces += [_GLUE, "'", _GLUE] if word == "Ap" else [_GLUE]
            elif word == "Pf" and index < len(words):
                pieces += [self._roff.escapes(words[index]), _GLUE]
                index += 1
            elif word == "Fl":
                index = self._flags(words, index, pieces)
            elif word == "Nm":
                if index >= len(words) or words[index] in _PLAIN | _CLOSING | _PAIRS.keys() | _OPENERS.keys():
                    pieces.append(self._name)
            elif word == "Xr" and index < len(words):
                page = self._roff.escapes(words[index])
                has_section = index + 1 < len(words) and words[index + 1][:1].isdigit()
                pieces.append(f"{page}({words[index + 1]})" if has_section else page)
                index += 2 if has_section else 1
            elif word == "Fn" and index < len(words):
                end = index + 1
                while end < len(words) and words[end] not in _CLOSING:
                    end += 1
                pieces.append(
                    f"{self._roff.escapes(words[index])}({', '.join(map(self._roff.escapes, words[index + 1 : end]))})"
                )
                index = end
            elif word == "In" and index < len(words):
                pieces.append(f"#include <{words[index]}>")
                index += 1
            elif word in _SYSTEMS:
                pieces.append(_SYSTEMS[word])
            elif word == "Ar" and (index >= len(words) or words[index] in _CLOSING | _PLAIN | _CLOSERS.keys()):
                pieces.append("file ...")
            elif word in _PLAIN:
                pass
            elif word in _CLOSING:
                pieces += [_GLUE, word]
            elif word in _OPENING:
                pieces += [word, _GLUE]
            else:
                pieces.append(self._roff.escapes(word))
        if closers:
            tail: list[str] = []
            while len(pieces) >= 2 and pieces[-1] in _CLOSING and pieces[-2] == _GLUE:
                tail = [*pieces[-2:], *tail]
                pieces = pieces[:-2]
            pieces += [part for closer in reversed(closers) for part in (_GLUE, closer)] + tail
        return (
            " ".join(pieces)
            .replace(f" {_GLUE} ", "")
            .replace(f"{_GLUE} ", "")
            .replace(f" {_GLUE}", "")
            .replace(_GLUE, "")
        )

    def _flags(self, words: list[str], index: int, pieces: list[str]) -> int:
        first = True
        while (
            index < len(words)
            and words[index] not in _PLAIN | _PAIRS.keys() | _OPENERS.keys() | _CLOSERS.keys() | _CLOSING
        ):
            pieces.append(words[index] if words[index] == "|" else "-" + self._roff.escapes(words[index]))
            index += 1
            first = False
        if first:
            pieces.append("-")
            if index < len(words) and words[index] not in _CLOSING:
                pieces.append(_GLUE)
        return index


_EXIT_TEXT = "The utility exits 0 on success, and >0 if an error occurs."
_RETURN_TEXT = (
    "The function returns the value 0 if successful; otherwise the value -1 is returned and errno is set to indicate "
    "the error."
)
