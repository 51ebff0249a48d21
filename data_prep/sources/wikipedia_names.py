"""What Wikipedias name differently by language, and what a dump does not say: aliases of namespaces, templates of
disambiguation pages, titles of lists.

The languages are the 20 of LLaMA (Touvron et al. 2023, arXiv:2302.13971, section 2.1), and Arabic, Chinese and
Japanese.

Sources: MediaWiki, `$namespaceAliases` of languages/messages/Messages….php; the Wikipedias' category of disambiguation
templates, and their conventions for titles of lists.
"""

from __future__ import annotations

from functools import lru_cache

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
    "crh": ("crh-latn", "crh"),
    "gan": ("gan-hans", "gan"),
    "iu": ("ike-cans", "iu"),
    "kk": ("kk-cyrl", "kk-kz", "kk"),
    "ku": ("ku-latn", "ku"),
    "shi": ("shi-tfng", "shi"),
    "tg": ("tg-cyrl", "tg"),
    "uz": ("uz-latn", "uz"),
    "wuu": ("wuu-hans", "wuu"),
}
"""Codes of the writing systems in which `-{…}-` is shown, the preferred one first, by language of a Wikipedia that has
several (MediaWiki, `LanguageConverterFactory`)."""

_LANGUAGES = """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo
es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg
ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lv mg mh mi mk ml mn mo mr ms mt my na nb ne ng nl nn no
nv ny oc om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su sv sw ta te tg
th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu ace als ang arc ary arz ast azb ban bar
bat-smg bcl be-tarask be-x-old bjn blk bpy bug bxr cbk-zam cdo ceb chr chy ckb crh csb dag din diq dsb dty eml ext
fiu-vro frp frr fur gag gan gcr glk gom gor got guw hak haw hif hsb hyw ilo inh jam jbo kaa kab kbd kbp kcg koi krc
ksh lad lbe lez lfn lij lld lmo lrc ltg mad mai map-bms mdf mhr min mni mnw mrj mwl myv mzn nah nap nds nds-nl new nia
nov nqo nrm nso olo pag pam pap pcd pdc pfl pms pnb pnt pwn rmy roa-rup roa-tara rue sah sat scn sco shi shn simple
skr smn srn stq szl szy tay tcy tet tpi trv tum tyv udm vec vep vls war wuu xal xmf zea zh-classical zh-min-nan zh-yue
"""
LANGUAGES = frozenset(_LANGUAGES.split())
"""Codes of Wikipedias, which are the prefixes of links to the same article in other languages."""


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
