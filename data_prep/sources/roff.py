"""Manual pages written in roff with the `man` macros, turned into plain text.

Not a formatter: a paragraph becomes one line, an example keeps its lines, fonts and positions are dropped. It knows
what pages in the field use: groff's names of characters, strings, conditions, macros that a page defines, tables.
Requests that it has never heard of are dropped, as groff does. Pages with the `mdoc` macros go on in `mdoc.py`.

Source of the language: groff(7), groff_man(7), groff_char(7).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_NAMED = {
    "aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "Fo": "«", "Fc": "»", "fo": "‹", "fc": "›",
    "Bq": "„", "bq": "‚", "em": "—", "en": "–", "hy": "-", "bu": "•", "ha": "^", "ti": "~", "ga": "`", "rs": "\\",
    "sl": "/", "ba": "|", "bv": "|", "br": "|", "or": "|", "at": "@", "sh": "#", "Do": "$", "Eu": "€", "Po": "£",
    "Ye": "¥", "ct": "¢", "co": "©", "rg": "®", "tm": "™", "de": "°", "sc": "§", "ps": "¶", "dg": "†", "dd": "‡",
    "mu": "×", "di": "÷", "+-": "±", "mi": "−", "pl": "+", "eq": "=", "!=": "≠", "<=": "≤", ">=": "≥", "==": "≡",
    "~=": "≅", "~~": "≈", "->": "→", "<-": "←", "<>": "↔", "ua": "↑", "da": "↓", "rA": "⇒", "lA": "⇐", "if": "∞",
    "la": "⟨", "ra": "⟩", "lB": "[", "rB": "]", "lC": "{", "rC": "}", "lh": "☜", "rh": "☞", "sq": "□", "ci": "○",
    "12": "½", "14": "¼", "34": "¾", "S1": "¹", "S2": "²", "S3": "³", "mc": "µ", "fm": "′", "sd": "″", "no": "¬",
    "ss": "ß", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "/o": "ø", "/O": "Ø", "/l": "ł", "/L": "Ł", "oa": "å",
    "oA": "Å", "-D": "Ð", "Sd": "ð", "TP": "Þ", "Tp": "þ", ".i": "ı", "r!": "¡", "r?": "¿", "Of": "ª", "Om": "º",
    "%0": "‰", "sr": "√", "sp": "∼", "ap": "∼", "nb": "⊄", "es": "∅", "mo": "∈", "fa": "∀", "te": "∃", "is": "∫",
    "CL": "♣", "SP": "♠", "HE": "♥", "DI": "♦", "OK": "✓", "ul": "_", "ru": "_", "rn": "‾", "pc": "·", "md": "⋅",
    "a^": "^", "a~": "~", "aa": "´", "ho": "˛", "shc": "", "u2010": "-",
}  # fmt: skip
_ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", "~": "\u0303", ":": "\u0308", ",": "\u0327", "v": "\u030c"}
_GREEK = dict(zip("abgdezyhiklmncoprstufxqw", "αβγδεζηθικλμνξοπρστυφχψω", strict=True))
_STRINGS = {
    "lq": "“", "rq": "”", "Tm": "™", "R": "®", "S": "", "L\"": '"', "R\"": '"', "C`": "", "C'": "", "--": "—",
    "PI": "π", "Aq": "'", "Gt": ">", "Lt": "<", "Le": "≤", "Ge": "≥", "Ne": "≠", "Am": "&", "Ba": "|", "Pm": "±",
    "Pi": "π", "q": '"', "Na": "NaN", "If": "∞",
}  # fmt: skip

_IGNORED = (
    "ad", "bp", "ce", "cs", "fam", "fp", "ft", "hc", "hw", "hy", "it", "lf", "ll", "lg", "ls", "lt", "mk", "ne", "nh",
    "nr", "ns", "nx", "pc", "pl", "pm", "po", "ps", "rm", "rn", "rr", "rs", "rt", "so", "ss", "ta", "tc", "tm", "tr",
    "tl", "ul", "uf", "vs", "warn", "wh", "IX", "PD", "DT", "AT", "UC", "PU", "hlm", "als", "mso", "char", "fchar",
    "schar", "defcolor", "color", "gcolor", "shift", "return", "break", "continue", "Sm", "ev", "in", "na",
)  # fmt: skip
"""Requests and macros about the looks of a page."""

_ESCAPE = re.compile(
    r"""\\(?:
      \((?P<two>..)
    | \[(?P<long>[^\]\n]{0,200})\]
    | \*(?P<string>\((?:..)|\[[^\]\n]{0,200}\]|.)
    | [fFmMYgn][+-]?(?:\(..|\[[^\]\n]{0,200}\]|.)
    | s(?:[+-]?\(..|[+-]?\[[^\]\n]{0,200}\]|[+-]?'[^'\n]*'|[+-]?[1-3][0-9]|[+-]?[0-9])?
    | [vwxXDLlbABHSZRo](?P<delimiter>['"\x01|!])(?P<argument>.*?)(?P=delimiter)
    | h(?P<quote>['"\x01])(?P<motion>.*?)(?P=quote)
    | N'(?P<code>\d+)'
    | (?P<one>.)
    | $
    )""",
    re.VERBOSE,
)
_SINGLE = {
    " ": " ",
    "~": " ",
    "0": " ",
    "-": "-",
    "e": "\\",
    "\\": "\\",
    "'": "´",
    "`": "`",
    "_": "_",
    "t": "\t",
    "E": "\\",
}


def named_character(name: str) -> str:
    """The character that groff calls `name`: `em`, `:u`, `*a`, `u00E9`, …; an unknown one is dropped."""
    if name in _NAMED:
        return _NAMED[name]
    if len(name) == 2 and name[0] in _ACCENTS and name[1].isalpha():
        return unicodedata.normalize("NFC", name[1] + _ACCENTS[name[0]])
    if len(name) == 2 and name[0] == "*" and name[1].lower() in _GREEK:
        letter = _GREEK[name[1].lower()]
        return letter.upper() if name[1].isupper() else letter
    match = re.fullmatch(r"u([0-9A-F]{4,6})((?:_[0-9A-F]{4,6})*)", name)
    if match:
        points = [int(point, 16) for point in name[1:].split("_")]
        if all(point <= 0x10FFFF and not 0xD800 <= point < 0xE000 for point in points):
            return unicodedata.normalize("NFC", "".join(map(chr, points)))
    return name if len(name) == 1 else ""


class Output:
    """Text under construction: words are gathered to paragraphs, unfilled lines stand as they are."""

    def __init__(self) -> None:
        self._blocks: list[str] = []
        self._words: list[str] = []
        self.is_filling = True
        self._is_glued = False

    def word(self, text: str) -> None:
        """Add input text; it joins what came before it by a space, or by a new line in an example."""
        if not self.is_filling:
            self._blocks.append(("    " + text).rstrip())
            return
        glue, self._is_glued = self._is_glued, False
        if text.endswith("\x02"):  # `\c`: the next line goes on without a space
            text, self._is_glued = text[:-1], True
        if glue and self._words:
            self._words[-1] += text
        elif text.strip():
            self._words.append(text.strip())

    def unglue(self) -> None:
        self._is_glued = False

    def end_line(self) -> None:
        if self._words:
            self._blocks.append(_join(self._words))
            self._words = []
        self._is_glued = False

    def end_paragraph(self) -> None:
        self.end_line()
        self._blocks.append("")

    def heading(self, text: str) -> None:
        self.end_paragraph()
        self._blocks += [re.sub(r"\s+", " ", text).strip(), ""]

    def line(self, text: str) -> None:
        """A line that stands alone."""
        self.end_line()
        if text.strip():
            self._blocks.append(text.rstrip())

    def text(self) -> str:
        self.end_line()
        joined = "\n".join(line.rstrip() for line in self._blocks).replace("\x02", "")
        return re.sub(r"\n{3,}", "\n\n", joined).strip("\n") + "\n"


def _join(words: list[str]) -> str:
    """Input lines to one line: with a space, except between two Chinese or Japanese characters."""
    text = words[0]
    for word in words[1:]:
        is_dense = _is_written_without_spaces(text[-1]) and _is_written_without_spaces(word[0])
        text += word if is_dense else f" {word}"
    return re.sub(r"[ \t]{2,}", " ", text)


def _is_written_without_spaces(character: str) -> bool:
    return "\u3000" <= character <= "\u30ff" or "\u3400" <= character <= "\u9fff" or "\uff00" <= character <= "\uffef"


def split_arguments(text: str) -> list[str]:
    """Arguments of a macro call: words, or `"quoted ones"` in which `""` is a quotation mark."""
    arguments: list[str] = []
    position = 0
    while position < len(text):
        if text[position] in " \t":
            position += 1
        elif text[position] == '"':
            closing = position + 1
            while closing < len(text) and (text[closing] != '"' or text[closing + 1 : closing + 2] == '"'):
                closing += 2 if text[closing] == '"' else 1
            arguments.append(text[position + 1 : closing].replace('""', '"'))
            position = closing + 1
        else:
            end = position
            while end < len(text) and text[end] not in " \t":
                end += 2 if text[end] == "\\" else 1
            arguments.append(text[position:end])
            position = end
    return arguments


class Roff:
    """One page on its way to text."""

    MAXIMUM_DEPTH = 20
    """Of strings in strings: what is defined by itself must end."""
    MAXIMUM_EXPANDED_LINES = 200_000
    """That macros of the page may put in, for the same reason; then they are ignored."""

    def __init__(self, page: str) -> None:
        self.output = Output()
        self.strings = dict(_STRINGS)
        self.macros: dict[str, list[str]] = {}
        self._lines = page.split("\n")[::-1]  # the next line is the last
        self._expanded_lines = 0
        self._else_is_taken = False
        self._tag_lines = 0
        self._requests = self._man_macros()

    def convert(self) -> str:
        """The page's text; empty when there is none."""
        while (line := self.next_line()) is not None:
            self.interpret(line)
        return self.output.text()

    # --- lines --------------------------------------------------------------------------------------------------------

    def next_line(self) -> str | None:
        if not self._lines:
            return None
        parts = [self._lines.pop()]
        while parts[-1].endswith("\\") and not parts[-1].endswith("\\\\") and self._lines:
            parts[-1] = parts[-1][:-1]
            parts.append(self._lines.pop())
        return "".join(parts)

    def skip_until(self, *ends: str) -> list[str]:
        """Take lines until `.end`; returns them."""
        taken: list[str] = []
        while (line := self.next_line()) is not None:
            if line[:1] in (".", "'") and line[1:].strip() in ends:
                break
            taken.append(line)
        return taken

    def interpret(self, line: str) -> None:
        if line[:1] in (".", "'"):
            self.request(line[1:])
            return
        line = re.sub(r"\\\}", "", line)
        if not line.strip():
            if self.output.is_filling:
                self.output.end_paragraph()
            else:
                self.output.word("")
        else:
            if line[0] == " " and self.output.is_filling:
                self.output.end_line()
            text = self.escapes(line)
            if text or not line.startswith('\\"'):
                self.output.word(text)
        self._after_input_line()

    def request(self, line: str) -> None:
        line = line.lstrip(" \t")
        if line.startswith(('\\"', "\\#", "\\}")) or not line:
            rest = line[2:].lstrip() if line.startswith("\\}") else ""
            if rest:
                self.request(rest.lstrip(".'"))
            return
        match = re.match(r"\S+", line)
        assert match
        name = re.split(r'\\["{]', match.group(), maxsplit=1)[0]
        rest = line[len(name) :]
        if name in ("if", "ie", "el", "while"):
            self._condition(name, rest.strip())
        elif name in ("de", "de1", "am", "am1", "dei"):
            self._define(rest)
        elif name in self._requests:
            self._requests[name](rest)
        elif name in self.macros:
            self._call(name, rest)

    def _after_input_line(self) -> None:
        if self._tag_lines:
            self._tag_lines -= 1
            if not self._tag_lines:
                self.output.end_line()

    # --- conditions, strings, macros ----------------------------------------------------------------------------------

    def _condition(self, name: str, rest: str) -> None:
        if name == "el":
            holds = self._else_is_taken
        elif name == "while":
            holds, rest = False, re.sub(r"^.*?(?=\\\{|$)", "", rest)
        else:
            holds, rest = self._test(rest)
            if name == "ie":
                self._else_is_taken = not holds
        opened = rest.lstrip().startswith("\\{")
        if holds:
            body = rest.lstrip()[2:] if opened else rest
            if body.strip():
                self.interpret(body.strip() if body.lstrip()[:1] in (".", "'") else body.removeprefix(" "))
        elif opened:
            depth = rest.count("\\{") - rest.count("\\}")
            while depth > 0 and (line := self.next_line()) is not None:
                depth += line.count("\\{") - line.count("\\}")

    def _test(self, text: str) -> tuple[bool, str]:
        """Evaluate the condition at the start: this is `nroff`, on its first page, with no register set."""
        if text.startswith("!"):
            holds, rest = self._test(text[1:].lstrip())
            return not holds, rest
        if text[:1] in ("n", "t", "o", "e", "v") and not text[1:2].isalnum():
            return text[0] in "no", text[1:].lstrip()
        if text[:1] in ("d", "r", "c", "m", "F", "S"):
            match = re.match(r"[drcmFS]\s*(\S+)\s*", text)
            if match:
                return text[0] == "d" and match.group(1) in (self.macros | self.strings), text[match.end() :]
        if text[:1] in ("'", '"', "\x01"):
            parts = text.split(text[0], 3)
            if len(parts) == 4:
                return self.escapes(parts[1]) == self.escapes(parts[2]), parts[3].lstrip()
        match = re.match(
            r"(?:\((?:[^()]|\([^()]*\)|\\n\(..)*\)|[^\s\\]|\\n(?:\[[^\]]*\]|\(..|.)|\\w'[^']*'|\\(?!\{).)+\s*", text
        )
        if not match:
            return False, text
        expression = re.sub(r"\\n\(\.g", "1", match.group().strip())
        expression = re.sub(r"(?<!\\)\\+n[+-]?(?:\[[^\]]*\]|\(..|.)", "0", expression)
        return self._arithmetic(expression), text[match.end() :]

    @staticmethod
    def _arithmetic(expression: str) -> bool:
        simple = re.fullmatch(r"\(*(-?\d+)[a-z]?(?:(==?|<=?|>=?)(-?\d+)[a-z]?)?\)*", expression)
        if not simple:
            return False
        left, operator, right = simple.groups()
        if operator is None:
            return int(left) > 0
        order = (int(left) > int(right)) - (int(left) < int(right))
        return order in {"=": (0,), "==": (0,), "<": (-1,), "<=": (-1, 0), ">": (1,), ">=": (1, 0)}[operator]

    def _define(self, rest: str) -> None:
        words = _without_comment(rest).split()
        body = self.skip_until(words[1] if len(words) > 1 else ".")
        if words and words[0] not in self._requests:
            self.macros[words[0]] = [line.replace("\\\\", "\\") for line in body]

    def _call(self, name: str, rest: str) -> None:
        self._expanded_lines += 1 + len(self.macros[name])
        if self._expanded_lines > self.MAXIMUM_EXPANDED_LINES:
            return
        arguments = split_arguments(rest)

        def put(match: re.Match[str]) -> str:
            if match.group(1) in ("*", "@"):
                return " ".join(arguments)
            index = int(match.group(1))
            return arguments[index - 1] if 0 < index <= len(arguments) else ""

        self._lines.extend(re.sub(r"\\\$([0-9*@])", put, line) for line in reversed(self.macros[name]))

    def _set_string(self, rest: str) -> None:
        name, _, value = rest.strip().partition(" ")
        if name:
            self.strings[name] = value.lstrip(" ").removeprefix('"')

    # --- escapes ------------------------------------------------------------------------------------------------------

    def escapes(self, text: str, depth: int = 0) -> str:
        """Text with every escape sequence replaced or dropped."""
        comment = re.search(r'(?<!\\)(?:\\\\)*(\\["#])', text)
        if comment:
            text = text[: comment.start(1)].rstrip()
        return _ESCAPE.sub(lambda match: self._escape(match, depth), text) if "\\" in text else text

    def _escape(self, match: re.Match[str], depth: int) -> str:
        if match["two"] is not None:
            return named_character(match["two"])
        if match["long"] is not None:
            return named_character(match["long"])
        if match["string"] is not None:
            name = match["string"].lstrip("([").rstrip("]") if match["string"][0] in "([" else match["string"]
            return self.escapes(self.strings.get(name, ""), depth + 1) if depth < self.MAXIMUM_DEPTH else ""
        if match["motion"] is not None:
            return "" if match["motion"].lstrip().startswith(("-", "|")) else " "
        if match["code"] is not None:
            return chr(int(match["code"])) if 31 < int(match["code"]) < 127 else ""
        if match["one"] is not None:
            return (
                "\x02"
                if match["one"] == "c"
                else _SINGLE.get(match["one"], "" if match["one"] in _SILENT else match["one"])
            )
        return match["argument"] or "" if match.group().startswith(("\\o", "\\b", "\\Z")) else ""

    # --- the man macros -----------------------------------------------------------------------------------------------

    def _man_macros(self) -> dict[str, Callable[[str], None]]:
        def nothing(rest: str) -> None:
            pass

        def paragraph(rest: str) -> None:
            self.output.end_paragraph()

        def unfilled(rest: str) -> None:
            self.output.end_line()
            self.output.is_filling = False

        def filled(rest: str) -> None:
            self.output.end_line()
            self.output.is_filling = True

        def line_break(rest: str) -> None:
            self.output.end_line()

        def table(kind: str) -> Callable[[str], None]:
            return lambda rest: self._table(self.skip_until(kind))

        macros: dict[str, Callable[[str], None]] = dict.fromkeys(_IGNORED, nothing)
        macros |= dict.fromkeys(("PP", "LP", "P", "sp", "Sp", "HP", "RS", "RE", "INDENT", "UNINDENT", "YS"), paragraph)
        macros |= dict.fromkeys(("nf", "EX", "Vb", "DS"), unfilled)
        macros |= dict.fromkeys(("fi", "EE", "Ve", "DE"), filled)
        macros |= dict.fromkeys(("br", "ti"), line_break)
        macros |= {name: self._fonts for name in ("B", "I", "SM", "SB", "R", "CW", "C", "OP")}
        macros |= {name: self._alternating_fonts for name in ("BR", "RB", "BI", "IB", "IR", "RI", "CR", "RC")}
        macros |= {
            "TH": self._title,
            "SH": self._heading,
            "SS": self._heading,
            "TP": lambda rest: self._tagged(),
            "TQ": lambda rest: self._tag_again(),
            "IP": self._item,
            "ds": self._set_string,
            "ig": lambda rest: self._ignore(rest),
            "TS": table("TE"),
            "EQ": lambda rest: self._drop("EN"),
            "PS": lambda rest: self._drop("PE"),
            "UR": lambda rest: self.output.unglue(),
            "MT": lambda rest: self.output.unglue(),
            "UE": lambda rest: self._after_link(rest),
            "ME": lambda rest: self._after_link(rest),
            "URL": self._link,
            "SY": self._synopsis,
            "Dd": self._continue_as_mdoc,
            "Dt": self._continue_as_mdoc,
        }
        return macros

    def _synopsis(self, rest: str) -> None:
        self.output.end_paragraph()
        self.output.word(self.escapes(rest.strip()))

    def _drop(self, end: str) -> None:
        self.skip_until(end)

    def _ignore(self, rest: str) -> None:
        self.skip_until(next(iter(_without_comment(rest).split()), "."))

    def _arguments(self, rest: str) -> list[str]:
        return [self.escapes(argument) for argument in split_arguments(_without_comment(rest))]

    def _title(self, rest: str) -> None:
        arguments = self._arguments(rest)
        if arguments:
            section = f"({arguments[1]})" if len(arguments) > 1 and arguments[1] else ""
            self.output.line(f"{arguments[0]}{section}")

    def _heading(self, rest: str) -> None:
        self.output.is_filling = True
        text = " ".join(self._arguments(rest))
        if not text and (line := self.next_line()) is not None:  # the title may stand on the next line
            text = self.escapes(line.removeprefix(".B ").removeprefix(".I "))
        self.output.heading(text)

    def _fonts(self, rest: str) -> None:
        self._word_of_macro(" ".join(self._arguments(rest)))

    def _alternating_fonts(self, rest: str) -> None:
        self._word_of_macro("".join(self._arguments(rest)))

    def _word_of_macro(self, text: str) -> None:
        if text:
            self.output.word(text)
            self._after_input_line()
        # without arguments the font applies to the next line, which needs nothing from us

    def _tagged(self) -> None:
        self.output.end_paragraph()
        self._tag_lines = 1

    def _tag_again(self) -> None:
        self.output.end_line()
        self._tag_lines = 1

    def _item(self, rest: str) -> None:
        self.output.end_paragraph()
        tag = next(iter(self._arguments(rest)), "").strip()
        if tag:
            was_filling, self.output.is_filling = self.output.is_filling, True
            self.output.word(tag)
            self.output.is_filling = was_filling
            if len(tag) > 3:  # a bullet or a number stands before its text, a word above it
                self.output.end_line()

    def _after_link(self, rest: str) -> None:
        if rest.strip():
            self.output.word(self.escapes(rest.strip()))

    def _link(self, rest: str) -> None:
        arguments = self._arguments(rest)
        self.output.word("".join(arguments[1:] or arguments))

    def _table(self, lines: list[str]) -> None:
        """A tbl(1) table: one line per row, cells separated by a tab."""
        self.output.end_line()
        separator = "\t"
        first = 0
        while first < len(lines) and not lines[first].rstrip().endswith("."):
            option = re.search(r"tab\s{0,9}\(\s{0,9}(.)\s{0,9}\)", lines[first])
            separator = option.group(1) if option else separator
            first += 1
        lines = lines[first + 1 :]
        cells: list[str] = []
        block: list[str] | None = None
        is_format = False
        for line in lines:
            if line.startswith(".T&") or is_format:  # another format for the rows that follow
                is_format = not line.rstrip().endswith(".")
            elif block is not None:
                if line.startswith("T}"):
                    cells[-1] = " ".join(block)
                    block = None
                    cells += line[2:].removeprefix(separator).split(separator) if line[2:] else []
                    if cells and cells[-1] == "T{":
                        block = []
                        continue
                else:
                    block.append(_table_text(line))
                    continue
            elif line[:1] in (".", "'") or set(line.strip()) <= {"_", "=", "-"}:
                continue
            else:
                cells = line.split(separator)
                if cells[-1].strip() == "T{":
                    block = []
                    continue
            self.output.line("\t".join(self.escapes(cell).strip() for cell in cells).strip())
        self.output.end_paragraph()

    def _continue_as_mdoc(self, rest: str) -> None:
        from data_prep.sources.mdoc import Mdoc

        Mdoc(self).convert()


def _without_comment(text: str) -> str:
    comment = re.search(r'(?<!\\)\\["#]', text)
    return text[: comment.start()] if comment else text


def _table_text(line: str) -> str:
    """A line inside of a cell: fonts by macro are as good as none."""
    match = re.match(r"[.']\s*(?P<name>[A-Z]{1,2})\s+(?P<rest>.*)", line)
    if match:
        return ("" if len(match["name"]) == 2 else " ").join(split_arguments(match["rest"]))
    return "" if line[:1] in (".", "'") else line


_SILENT = frozenset('&|^/,%:)!{}dupraz"#')


def page_to_text(page: str) -> str:
    """Text of one manual page.

    Args:
        page: roff, with `man` or `mdoc` macros; lines end in a newline.
    """
    return Roff(page.replace("\r\n", "\n")).convert()


def alias_target(page: str) -> str | None:
    """The page that this one only points to (`.so man3/printf.3`), or None."""
    lines = [line for line in page.split("\n") if line.strip() and not re.match(r"[.']\s*\\[\"#]", line)]
    if len(lines) == 1 and (match := re.match(r"[.']\s*so\s+(\S+)", lines[0])):
        return match.group(1)
    return None
