"""What Wikipedias name differently by language, and what a dump does not say: aliases of namespaces, templates of
disambiguation pages, titles of lists.

The languages are the 20 of LLaMA (Touvron et al. 2023, arXiv:2302.13971, section 2.1), and Arabic, Chinese and
Japanese.

Sources: MediaWiki, `$namespaceAliases` of languages/messages/Messages….php; the Wikipedias' category of disambiguation
templates, and their conventions for titles of lists.
"""

from __future__ import annotations

from functools import lru_cache

from data_prep.languages import UnknownLanguageError, canonical

FILE_ALIASES = {
    "ar": "ملف صورة",
    "bg": "Файл Картинка",
    "ca": "Fitxer Imatge",
    "cs": "Soubor",
    "da": "Fil Billede",
    "de": "Datei Bild",
    "es": "Archivo Imagen",
    "fr": "Fichier",
    "hr": "Datoteka Slika",
    "hu": "Fájl Kép",
    "it": "Immagine",
    "ja": "ファイル 画像",
    "nl": "Bestand Afbeelding",
    "pl": "Plik Grafika",
    "pt": "Ficheiro Imagem Arquivo",
    "ro": "Fișier Fişier Imagine",
    "ru": "Файл Изображение",
    "sl": "Slika Datoteka",
    "sr": "Датотека Слика Slika Datoteka",
    "sv": "Fil Bild",
    "uk": "Файл Зображення Изображение",
    "zh": "文件 档案 檔案 图像 圖像 图片 圖片",
}
"""Names of the namespace of files, besides `File` and `Image`."""
CATEGORY_ALIASES = {
    "en": "CAT",
    "ru": "К",
    "sr": "Категорија Kategorija",
    "sv": "KAT",
    "uk": "К Категория",
    "zh": "CAT 分类 分類",
}
"""Names of the namespace of categories that are neither `Category` nor in the dump."""

DISAMBIGUATION = {
    "en": "disambiguation, disambig, disamb, dab, hndis, geodis, human name disambiguation, place name disambiguation, "
    "number disambiguation, numberdis, letter-number combination disambiguation, school disambiguation, schooldis, "
    "station disambiguation, airport disambiguation, hospital disambiguation, road disambiguation, roaddis, "
    "callsign disambiguation, mathematical disambiguation, taxonomy disambiguation, genus disambiguation, "
    "species latin name disambiguation, chinese title disambiguation, disambiguation cleanup",
    "ar": "توضيح, صفحة توضيح",
    "bg": "пояснение, пояснителна страница",
    "ca": "desambiguació, desambigua",
    "cs": "rozcestník, rozcestník - příjmení",
    "da": "flertydig",
    "de": "begriffsklärung, bkl",
    "es": "desambiguación, desambiguacion",
    "fr": "homonymie, homonymie de personnes, homonymie de communes, homonymie dynastique, homonymie d'édifices, "
    "homonymie de toponyme, patronymie, paronymie",
    "hr": "razdvojba",
    "hu": "egyért, egyértelműsítő lap, egyértelműsítő",
    "it": "disambigua",
    "ja": "aimai, 曖昧さ回避, 人名の曖昧さ回避, 地名の曖昧さ回避",
    "nl": "dp, dpintro, doorverwijspagina",
    "pl": "ujednoznacznienie",
    "pt": "desambiguação, desambig, desamb",
    "ro": "dezambiguizare, dezambig",
    "ru": "неоднозначность, многозначность, список однофамильцев",
    "sl": "razločitev",
    "sr": "вишезначна одредница, вишезначна, višeznačna odrednica",
    "sv": "förgrening, förgreningssida, gren",
    "uk": "неоднозначність, багатозначність, disambign",
    "zh": "消歧义, 消歧義, 消歧义页, 消歧義頁, 人名消歧義, 地名消歧義",
}
"""Templates that make a page one of disambiguation, in lower case; those of English count in all languages."""

LIST_TITLES = {
    "ar": "قائمة …",
    "bg": "Списък …",
    "ca": "Llista …",
    "cs": "Seznam …",
    "da": "Liste over …, Lister over …",
    "de": "Liste …, Listen …",
    "en": "List of …, Lists of …, Index of …",
    "es": "Anexo:…, Lista de …",
    "fr": "Liste …, Listes …",
    "hr": "Popis …",
    "hu": "… listája",
    "it": "Lista …, Liste …, Elenco …",
    "ja": "…一覧",
    "nl": "Lijst van …, Lijst …",
    "pl": "Lista …",
    "pt": "Anexo:…, Lista de …, Listas de …",
    "ro": "Lista …, Listă …",
    "ru": "Список …, Списки …",
    "sl": "Seznam …",
    "sr": "Списак …, Spisak …, Листа …",
    "sv": "Lista över …, Listor över …",
    "uk": "Список …, Списки …",
    "zh": "…列表",
}
"""Titles of lists: `…` is anything."""

VARIANTS = {
    "zh": ("zh-hans", "zh-cn", "zh-sg", "zh-my", "zh"),
    "sr": ("sr-ec", "sr-cyrl", "sr"),
}
"""Codes of the writing systems in which `-{…}-` is shown, the preferred one first."""

_LONG_LANGUAGES = """
ace ang arc ary arz ast azb ban bar bcl bjn blk bpy bug bxr cdo ceb chr chy ckb crh csb dag din diq dsb dty eml ext frp
frr fur gag gan gcr glk gom gor got guw hak haw hif hsb hyw ilo inh jam jbo kaa kab kbd kbp kcg koi krc ksh lad lbe lez
lfn lij lld lmo lrc ltg mad mai mdf mhr min mni mnw mrj mwl myv mzn nah nap nds new nia nov nqo nrm nso olo pag pam pap
pcd pdc pfl pms pnb pnt pwn rmy rue sah sat scn sco shi shn skr smn srn stq szl szy tay tcy tet tpi trv tum tyv udm vec
vep vls war wuu xal xmf zea als simple
bat-smg be-tarask be-x-old cbk-zam fiu-vro map-bms nds-nl roa-rup roa-tara zh-classical zh-min-nan zh-yue
"""


@lru_cache(maxsize=1)
def language_prefixes() -> frozenset[str]:
    """Return the prefixes of links to other languages: codes of Wikipedias, and all of ISO 639-1."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return frozenset(code for a in letters for b in letters if _is_language(code := a + b)) | {*_LONG_LANGUAGES.split()}


def _is_language(code: str) -> bool:
    try:
        canonical(code)
    except UnknownLanguageError:
        return False
    return True


def is_list_title(title: str, language: str) -> bool:
    """Return whether a page of a Wikipedia in this language is a list by its title."""
    for pattern in LIST_TITLES.get(language, "").split(", "):
        before, _, after = pattern.partition("…")
        if pattern and title.startswith(before) and title.endswith(after):
            return True
    return False


@lru_cache(maxsize=64)
def disambiguation_templates(language: str) -> frozenset[str]:
    """Return the names of templates, in lower case, that make a page one of disambiguation."""
    return frozenset(f"{DISAMBIGUATION['en']}, {DISAMBIGUATION.get(language, '')}".split(", ")) - {""}
