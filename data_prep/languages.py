"""Canonical names of languages, for the labels of any model.

lid.176 names languages by the codes of Wikipedia (`zh`, `als`), GlotLID, OpenLID and NLLB by ISO 639-3 and a script
(`zho_Hani`, `arb_Arab`). Without a common name, rules, settings, parameters and models would not match. The name is

    the ISO 639-1 code, or that of ISO 639-3 where there is no other; then `_` and the script (ISO 15924), unless it is
    the one in which the language is mostly written:    zh  zh_Hant  sr  sr_Latn  arz  en

A macrolanguage and its usual member are one language (`zho` and `cmn`, `ara` and `arb`, `est` and `ekk`); members that
have labels of their own beside it in these models (`yue`, `arz`, `ckb`, `azb`, `nn`) are languages of their own.

Sources: ISO 639-3 and its macrolanguage mappings (SIL), ISO 15924; the labels of lid.176 (Grave et al. 2018,
arXiv:1802.06893), FLORES-200 (NLLB Team 2022, arXiv:2207.04672, table 1), OpenLID (Burchell et al. 2023,
arXiv:2305.13820) and GlotLID (Kargaran et al. 2023, arXiv:2310.16248).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

UNKNOWN = "und"
"""Language of a text in which a model recognizes nothing."""

_TWO_LETTERS_TABLE = """
aar:aa abk:ab afr:af aka:ak amh:am ara:ar arg:an asm:as ava:av ave:ae aym:ay aze:az bak:ba bam:bm bel:be ben:bn
bis:bi bod:bo bos:bs bre:br bul:bg cat:ca ces:cs cha:ch che:ce chu:cu chv:cv cor:kw cos:co cre:cr cym:cy dan:da
deu:de div:dv dzo:dz ell:el eng:en epo:eo est:et eus:eu ewe:ee fao:fo fas:fa fij:fj fin:fi fra:fr fry:fy ful:ff
gla:gd gle:ga glg:gl glv:gv grn:gn guj:gu hat:ht hau:ha hbs:sh heb:he her:hz hin:hi hmo:ho hrv:hr hun:hu hye:hy
ibo:ig ido:io iii:ii iku:iu ile:ie ina:ia ind:id ipk:ik isl:is ita:it jav:jv jpn:ja kal:kl kan:kn kas:ks kat:ka
kau:kr kaz:kk khm:km kik:ki kin:rw kir:ky kom:kv kon:kg kor:ko kua:kj kur:ku lao:lo lat:la lav:lv lim:li lin:ln
lit:lt ltz:lb lub:lu lug:lg mah:mh mal:ml mar:mr mkd:mk mlg:mg mlt:mt mon:mn mri:mi msa:ms mya:my nau:na nav:nv
nbl:nr nde:nd ndo:ng nep:ne nld:nl nno:nn nor:no nya:ny oci:oc oji:oj ori:or orm:om oss:os pan:pa pli:pi pol:pl
por:pt pus:ps que:qu roh:rm ron:ro run:rn rus:ru sag:sg san:sa sin:si slk:sk slv:sl sme:se smo:sm sna:sn snd:sd
som:so sot:st spa:es sqi:sq srd:sc srp:sr ssw:ss sun:su swa:sw swe:sv tah:ty tam:ta tat:tt tel:te tgk:tg tgl:tl
tha:th tir:ti ton:to tsn:tn tso:ts tuk:tk tur:tr twi:tw uig:ug ukr:uk urd:ur uzb:uz ven:ve vie:vi vol:vo wln:wa
wol:wo xho:xh yid:yi yor:yo zha:za zho:zh zul:zu
"""
_TWO_LETTERS = dict(pair.split(":") for pair in _TWO_LETTERS_TABLE.split())
"""ISO 639-1 codes by ISO 639-3 code; `sh` is withdrawn, but a label of lid.176."""

# in this order: members of macrolanguages that models use for the whole; alternative codes of ISO 639-2; withdrawn ones
_SAME_TABLE = """
cmn:zh arb:ar nob:no nb:no pes:fa swh:sw zsm:ms lvs:lv ekk:et uzn:uz khk:mn ydd:yi npi:ne ory:or azj:az kmr:ku
plt:mg quy:qu gug:gn ayr:ay gaz:om pbt:ps fil:tl knc:kr ike:iu bih:bho bh:bho sro:sc
alb:sq arm:hy baq:eu bur:my chi:zh cze:cs dut:nl fre:fr geo:ka ger:de gre:el ice:is mac:mk may:ms mao:mi per:fa
rum:ro slo:sk tib:bo wel:cy scr:hr scc:sr
iw:he in:id ji:yi jw:jv mo:ro mol:ro
"""
_SAME = dict(pair.split(":") for pair in _SAME_TABLE.split())
"""Names by other codes."""

_WITH_SCRIPT = {"als": "sq"}
"""Meaning of codes with a script, in ISO 639-3: `als_Latn` is Tosk Albanian."""
_WITHOUT_SCRIPT = {"als": "gsw"}
"""Meaning of codes without a script, as labels of lid.176: Wikipedia's `als` is Alemannic."""

_SCRIPTS = {
    "Arab": "ar arz ary apc ajp acm acq ars aeb ayl ayn azb ckb fa glk ks lrc mzn pnb prs ps sd skr ug ur bal lah",
    "Armn": "hy hyw",
    "Beng": "as bn bpy mni",
    "Cans": "iu cr",
    "Cyrl": "ab ady alt av ba be bg bxr ce chm cu cv inh kbd kjh kk koi kpv krc kv ky lbe lez mdf mhr mk mn mns mrj "
    "myv nog os ru rue sah sr tg tt tyv udm uk xal",
    "Deva": "awa bho dty gom hi hne kok mag mai mr ne new sa",
    "Ethi": "am ti gez",
    "Geor": "ka xmf",
    "Grek": "el grc",
    "Gujr": "gu",
    "Guru": "pa",
    "Hang": "ko",
    "Hani": "zh wuu yue gan hak lzh nan cdo hsn",
    "Hebr": "he yi lad",
    "Jpan": "ja",
    "Khmr": "km",
    "Knda": "kn tcy",
    "Laoo": "lo",
    "Mlym": "ml",
    "Mymr": "my mnw shn blk",
    "Olck": "sat",
    "Orya": "or",
    "Sinh": "si",
    "Syrc": "arc syr aii",
    "Taml": "ta",
    "Telu": "te",
    "Tfng": "zgh tzm",
    "Thaa": "dv",
    "Thai": "th",
    "Tibt": "bo dz",
    "Yiii": "ii",
}
_MAIN_SCRIPT = {language: script for script, languages in _SCRIPTS.items() for language in languages.split()}
"""Script in which each language is mostly written, if not Latin."""
_SAME_SCRIPT = {"Kore": "Hang", "Hira": "Jpan", "Kana": "Jpan", "Hrkt": "Jpan", "Aran": "Arab"}
_HAN_SCRIPT = {"zh": "Hans", "yue": "Hant", "nan": "Hant", "hak": "Hant"}
"""Meaning of `Hani`, which does not distinguish simplified from traditional, for languages with both."""

_LABEL = re.compile(r"([a-z]{2,3})(?:[_-]([A-Za-z]{4}))?")


class UnknownLanguageError(ValueError):
    """A label does not name a language."""


def canonical(label: str, *, keeps_script: bool = False) -> str:
    """Return the canonical name of a language from a label of a model or a user.

    Args:
        keeps_script: keep `zh_Hans` instead of `zh`: a setting may mean one script only.

    Raises:
        UnknownLanguageError: not a code of ISO 639, or an unassigned one of two letters.
    """
    found = _LABEL.fullmatch(label)
    if found is None:
        raise UnknownLanguageError(f"{label!r} is not a language code")
    code, script = found[1], (found[2] or "").capitalize()
    script = _SAME_SCRIPT.get(script, script)
    code = (_WITH_SCRIPT if script else _WITHOUT_SCRIPT).get(code, code)
    code = _SAME.get(code, _TWO_LETTERS.get(code, code))
    if len(code) == 2 and code not in _CODES:
        raise UnknownLanguageError(f"{label!r} is not a language code")
    if code in (UNKNOWN, "zxx", "mis", "mul"):
        return UNKNOWN
    if not script:
        return code
    if script == "Hani":
        script = _HAN_SCRIPT.get(code, script)
    return f"{code}_{script}" if keeps_script or script != _main_script(code) else code


_CODES = frozenset(_TWO_LETTERS.values())


def _main_script(code: str) -> str:
    script = _MAIN_SCRIPT.get(code, "Latn")
    return _HAN_SCRIPT.get(code, script) if script == "Hani" else script


def without_script(name: str) -> str:
    """Return the name without script: `zh` for `zh_Hant`."""
    return name.partition("_")[0]


def is_one_of(name: str, meant: Collection[str]) -> bool:
    """Return whether a document's language is among those meant: a name with a script means that script, one without
    means any."""
    return meant_for(name, meant) is not None


def meant_for(name: str, meant: Collection[str]) -> str | None:
    """Return the matching one of the languages meant: one with the document's script is preferred to one without
    script."""
    code, _, script = name.partition("_")
    whole = f"{code}_{script or _main_script(code)}"
    return whole if whole in meant else code if code in meant else None


def canonical_labels(labels: Iterable[str]) -> dict[str, str]:
    """Return canonical names by a model's labels.

    Raises:
        UnknownLanguageError: some labels do not name a language; lists them.
    """
    names: dict[str, str] = {}
    unknown: list[str] = []
    for label in labels:
        try:
            names[label] = canonical(label)
        except UnknownLanguageError:
            unknown.append(label)
    if unknown:
        shown = ", ".join(map(repr, unknown[:20])) + (f" and {len(unknown) - 20} more" if len(unknown) > 20 else "")
        raise UnknownLanguageError(
            f"these labels do not name a language: {shown}; use codes of ISO 639 with or without a script, such as "
            "`en`, `eng_Latn` and `zho_Hans`"
        )
    return names


def canonical_setting(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the canonical names of languages in a setting, in its order.

    Raises:
        UnknownLanguageError: a label does not name a language, is ambiguous, or names the same language as another.
    """
    labels = tuple(labels)
    canonical_labels(labels)
    if "als" in labels:
        raise UnknownLanguageError(
            "'als' is Alemannic in Wikipedia and lid.176, and Tosk Albanian in ISO 639-3; write 'gsw' or 'sq'"
        )
    names = tuple(canonical(label, keeps_script=True) for label in labels)
    for name in names:
        if names.count(name) > 1:
            same = [other for other, its_name in zip(labels, names, strict=True) if its_name == name]
            raise UnknownLanguageError(f"{', '.join(map(repr, same))} name the same language, {name}; give it once")
    return names
