"""Templates of Wikipedia that format a few words, and what remains of them in plain text.

All other templates show what is not prose: boxes, references, notices, navigation. A rule is a pattern in which `{2}`
is the second argument without a name, `{title}` one with a name, and `{2|1}` the first of them that is not empty; or a
function of the arguments. Names are in lower case, with spaces; those of all languages are in one table.

Source: the templates' documentation on the Wikipedias of these languages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

Rule = Callable[[Sequence[str]], str]
"""What remains of a template, from its arguments."""

_FIELD = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"[\w -]{1,40}")


def _named(arguments: Sequence[str]) -> dict[str, str]:
    """Return arguments by their name, or by their number from 1."""
    found: dict[str, str] = {}
    number = 0
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and _NAME.fullmatch(name.strip()):
            found[name.strip()] = value.strip()
        else:
            number += 1
            found[str(number)] = argument.strip()
    return found


def _pattern(pattern: str) -> Rule:
    """Make the rule of a pattern."""
    pieces = _FIELD.split(pattern)
    fields = [tuple(piece.split("|")) for piece in pieces[1::2]]

    def rule(arguments: Sequence[str]) -> str:
        found = _named(arguments)
        parts = list(pieces)
        for place, names in enumerate(fields):
            parts[2 * place + 1] = next((found[name] for name in names if found.get(name)), "")
        return "".join(parts).strip(" ") if fields else pattern

    return rule


def _last(arguments: Sequence[str]) -> str:
    """Return the last argument without a name."""
    unnamed = [value for name, value in _named(arguments).items() if name.isdigit() and value]
    return unnamed[-1] if unnamed else ""


def _spaced(arguments: Sequence[str]) -> str:
    """Return all arguments without a name, joined by spaces."""
    return " ".join(value for name, value in _named(arguments).items() if name.isdigit() and value)


_JOINS = {"-": "–", "–": "–", "to": " to ", "and": " and ", "or": " or ", "by": " by ", "x": " × ", "×": " × "}


def _converted(arguments: Sequence[str]) -> str:
    """`{{convert|5|to|6|km|mi}}`: the numbers and their unit, without the conversion."""
    found = [value for name, value in _named(arguments).items() if name.isdigit()]
    text = ""
    for place, value in enumerate(found):
        if place % 2:
            if value not in _JOINS or place + 1 == len(found):
                return f"{text} {value}"
            text += _JOINS[value]
        else:
            text += value
    return text


def _fraction(arguments: Sequence[str]) -> str:
    found = _named(arguments)
    values = [found[key] for key in ("1", "2", "3") if found.get(key)]
    if len(values) == 3:
        return f"{values[0]} {values[1]}⁄{values[2]}"
    return f"{values[0]}⁄{values[1]}" if len(values) == 2 else f"1⁄{values[0]}" if values else ""


def _japanese(arguments: Sequence[str]) -> str:
    """`{{nihongo|English|kanji|reading}}`."""
    found = _named(arguments)
    inside = ", ".join(found[key] for key in ("2", "3") if found.get(key))
    english = found.get("1", "")
    return f"{english} ({inside})" if english and inside else english or inside


def _scripts(arguments: Sequence[str]) -> str:
    """`{{zh|t=…|s=…|p=…}}`: the forms of a Chinese name."""
    found = _named(arguments)
    texts = [found[key] for key in ("c", "s", "t", "p", "1") if found.get(key)]
    return "; ".join(dict.fromkeys(texts))


def _quotation(arguments: Sequence[str]) -> str:
    found = _named(arguments)
    text = next((found[key] for key in ("text", "quote", "texte", "texto", "citat", "1") if found.get(key)), "")
    return f"\n{text}\n" if text else ""


def _as_of(arguments: Sequence[str]) -> str:
    """`{{as of|2010|May|3}}`."""
    found = _named(arguments)
    date = " ".join(found[key] for key in ("3", "2", "1") if found.get(key))
    return f"{'as' if 'lc' in found else 'As'} of {date}"


def _formula(arguments: Sequence[str]) -> str:
    """`{{chem|H|2|O}}`."""
    return "".join(value for name, value in _named(arguments).items() if name.isdigit())


_FUNCTIONS: Mapping[str, Rule] = {
    "convert, cvt": _converted,
    "frac, fraction, sfrac, bruch": _fraction,
    "nihongo, nihongo2, nihongo3": _japanese,
    "zh, zh-full, lang-zh": _scripts,
    "quote, blockquote, quotation, cquote, bq, poem quote, poemquote": _quotation,
    "zitat, citation bloc, cita, citazione, citat, цитата, начало цитаты": _quotation,
    "unité, unite, nombre, num, formatnum, nb": _spaced,
    "transl, transliteration": _last,
    "as of": _as_of,
    "chem, chem2, chemical formula": _formula,
    "date, date-, date de naissance, date de décès": _spaced,
}

_PATTERNS: Mapping[str, str] = {
    # words in another language, and their script
    "lang, langue, lang2": "{2|text}",
    "sprache, idioma, lengua, lingua, taal, polytonic, unicode, script, hebrew, rtl-lang": "{2|1}",
    "lien, ill, interlanguage link, interlanguage link multi, illm": "{lt|display|texte|trad|1}",
    "仮リンク": "{label|1}",
    "link-en, le, link-ja, link-de, link-fr, link-ko, link-es, link-it, link-ru, link-la": "{3|1}",
    "не переведено, не переведено 2, не переведено 3, не переведено 5, нп, нп3, нп5, iw, iw2": "{2|1}",
    "tsl, translink": "{4|3}",
    "linktext, wikt-lang, wt": "{2|1}",
    # how words look
    "nowrap, nobr, nobreak, no wrap, nobold, normal, noitalic, nosup": "{1}",
    "small, smaller, big, larger, large, strong, em, bold, italic, kapitälchen": "{1}",
    "sc, smallcaps, small caps, smallcaps2, petitescap, versalitas, maiuscoletto": "{1}",
    "var, code, mono, monospace, kbd, samp, tt, key, mvar, math, serif, sans-serif, visible anchor, vanchor": "{1}",
    "color, colour, font color, text color, farbe": "{3|2}",
    "abbr, abbreviation, abréviation, abbrlink, tooltip, hover title": "{1}",
    "resize, fontsize": "{2|1}",
    "sup, sub, exp, ind, e, er, ère, re, ème": "{1}",
    "sic, typo, as written, not a typo, proper name": "{1}",
    "ruby, rubi": "{1} ({2})",
    "読み仮名, 読み仮名 ruby不使用, よみがな": "{1}（{2}）",
    "gloss": "‘{1}’",
    "lit, lit., literal translation": "lit. ‘{1}’",
    "angbr, angle bracket": "⟨{1}⟩",
    "ipa link, ipalink": "{1}",
    # numbers and dates
    "circa, c., ca": "c. {1}",
    "floruit, fl.": "fl. {1}",
    "born": "born {1}",
    "reign, r.": "r. {1}–{2}",
    "val": "{1} {u|ul}",
    "siècle, s, s-, siècle2": "{1}{2} siècle",
    "av jc": "av. J.-C.",
    "ap jc": "apr. J.-C.",
    "start date, end date": "{1}",
    "us$, usd": "US${1}",
    "gbp, £, pound sterling": "£{1}",
    "eur, euro, €": "€{1}",
    "inr, ₹, indian rupee": "₹{1}",
    "jpy, ¥": "¥{1}",
    "numero, no., number sign": "No. {1}",
    "uss, hms, hmas, hmcs, ss, rms": "{name} {1}",
    "flag, flagu, flagcountry": "{1}",
    "music": "{1}",
    # signs
    "spaced ndash, spnd, snd, spndash, –, dash, spaced en dash": " – ",
    "spaced mdash, spaced em dash, mdash, em dash, emdash, —": " — ",
    "ndash, en dash": "–",
    "nbsp, space, spaces, thinsp, thin space, hair space, hairsp": " ",
    "', apostrophe, apos": "'",
    "'s": "'s",
    "·, dot, middot, •, bull, bullet": " · ",
    "!": "|",
    "=": "=",
    "((": "{{",
    "))": "}}",
    "minus, −": "−",
    "±, plusminus": "±",
    "×, times": "×",
    "degree, deg": "°",
    "ellipsis, ...": "...",
    "br, crlf, break": "\n",
    "bce": "BCE",
    # parser functions, by the text before their colon
    "lc:, uc:, lcfirst:, ucfirst:, formatnum:": "{1}",
}

INLINE: Mapping[str, Rule] = {
    name: rule
    for names, rule in (
        *((names, _pattern(pattern)) for names, pattern in _PATTERNS.items()),
        *_FUNCTIONS.items(),
    )
    for name in names.split(", ")
}
"""Rules by name of the template; that of a parser function ends with a colon."""

_WITH_LANGUAGE = re.compile(r"(?:lang|langue|llang)-([a-z]{2,3})(?:-[a-z]{2,8}){0,2}")


def rule_of(name: str) -> Rule | None:
    """Return the rule of a template by its name in lower case; None: it leaves nothing."""
    rule = INLINE.get(name)
    if rule is None and "-" in name and _WITH_LANGUAGE.fullmatch(name):
        return _pattern("{1}")  # {{lang-fr|mot}}
    return rule
