"""Articles in wikitext, with the text that a reader sees of them: without boxes, tables, notes and links to files.

Written for these tests, in the markup that Wikipedias use.
"""

from __future__ import annotations

LIGHTHOUSE = """{{Short description|Lighthouse on an island}}
{{Use dmy dates|date=May 2020}}
{{Infobox lighthouse
| name = Grey Rock Light
| image = Grey Rock.jpg
| caption = The tower in {{circa|1900}}, seen from [[Port Vell|the port]]<ref name="p">{{cite web|url=http://a.example/x|title=Grey Rock}}</ref>
| height = {{convert|31|m|ft}}
| coordinates = {{coord|54|1|N|3|2|W|display=inline,title}}
|}}
[[File:Grey Rock.jpg|thumb|left|alt=A tower|The ''tower'' of [[Grey Rock]], with {{nowrap|its [[keeper (profession)|keeper]]}} in [[1902]]]]
'''Grey Rock Light''' ({{lang-fr|Phare du Rocher Gris}}; {{IPAc-en|g|r|eɪ}}) is a [[lighthouse]] off the coast of [[County Down|Down]]. It was built in 1874&ndash;1876<!-- by whom? --> by '''''Ada'' Byrne''',<ref>Byrne, ''Lights'', p. 4.</ref> and is {{convert|31|m|ft|0}} tall.<ref name="p" /><ref group=n>See {{harvnb|Byrne|1880}}</ref>

<!-- a comment of its own -->
Its lamp{{efn|A second one is kept {{as of|2010|lc=y}}.}} was lit for [[ship]]s {{spaced ndash}} day and night {{citation needed|date=May 2020}}. The light follows {{math|''I'' {{=}} ''k''/''d''<sup>2</sup>}}, or <math display="block">I = \\frac{k}{d^2}</math> where {{mvar|d}} is up to 10<sup>6</sup> metres.

== History ==
{{main|History of lights}}
{| class="wikitable sortable"
! Year !! Keeper
|-
| 1876 || [[John Doe|J. Doe]]
|-
| 1901 ||
{| class="nested"
| inner || cell
|}
|}
The first keeper, [[John Doe (keeper)|John Doe]], wrote:
{{quote|The sea is never [sic] still.|John Doe|''Diary''}}
He kept {{ill|Marta Kruse|de}}'s [http://b.example/diary diary], [[:Category:Diaries|one of many]] [https://c.example/d].

=== Storms ===
{{Storms in Down}}

== Construction ==
# foundations of [[granite]]
# the tower
#* of brick
#* of iron
# the lamp
; Lens : Fresnel
: indented

Run <code>if (a < b && c[0])</code> or <nowiki>''[[plain]]'' {{text}}</nowiki> here:
<syntaxhighlight lang="c">
int main() { return x[[0]]; }
</syntaxhighlight>

== See also ==
* [[Blue Rock]]
* [[wikt:light|Light]] on Wiktionary

== References ==
{{reflist|30em}}
<references group="n" />

== External links ==
{{commons category|Grey Rock}}

{{DEFAULTSORT:Grey Rock}}
__NOTOC__
[[Category:Lighthouses]]
[[Category:1876 in [[Ireland]]]]
[[fr:Phare du Rocher Gris]]
"""

LIGHTHOUSE_TEXT = """Grey Rock Light (Phare du Rocher Gris) is a lighthouse off the coast of Down. It was built in 1874–1876 by Ada Byrne, and is 31 m tall.

Its lamp was lit for ships – day and night. The light follows I = k/d², or $I = \\frac{k}{d^2}$ where d is up to 10⁶ metres.

History

The first keeper, John Doe, wrote:

The sea is never [sic] still.

He kept Marta Kruse's diary, one of many.

Construction

1. foundations of granite
2. the tower
  - of brick
  - of iron
3. the lamp
Lens : Fresnel
indented

Run if (a < b && c[0]) or ''[[plain]]'' {{text}} here:

int main() { return x[[0]]; }

See also

- Blue Rock
- Light on Wiktionary"""

ARTICLES: dict[str, tuple[str, str]] = {
    "en": (LIGHTHOUSE, LIGHTHOUSE_TEXT),
    "ar": (
        "[[ملف:منارة.jpg|تصغير|المنارة [[بحر|البحرية]]]]\n'''المنارة''' ({{إنج|Lighthouse}}) هي [[برج]] على [[ساحل|الساحل]].<ref>كتاب</ref>\n\n"
        "== التاريخ ==\n{{مفصلة|تاريخ}}\nبنيت سنة [[1876]].\n\n== مراجع ==\n{{مراجع}}\n[[تصنيف:منارات]]",
        "المنارة هي برج على الساحل.\n\nالتاريخ\n\nبنيت سنة 1876.",
    ),
    "bg": (
        "[[Картинка:Фар.jpg|мини|Фарът в [[Варна]]]]\n'''Фарът''' е [[кула]] на {{lang|bg|брега}}.<ref>Книга</ref>\n== История ==\nПостроен е през [[1876]] г.\n"
        "== Източници ==\n<references />\n[[Категория:Фарове]]",
        "Фарът е кула на брега.\n\nИстория\n\nПостроен е през 1876 г.",
    ),
    "ca": (
        "[[Fitxer:Far.jpg|miniatura|El [[far]]]]\n{{Infotaula edifici}}\nEl '''far''' és una [[torre]] de la costa de l{{'}}illa.\n== Història ==\nFou construït el [[1876]].\n[[Categoria:Fars]]",
        "El far és una torre de la costa de l'illa.\n\nHistòria\n\nFou construït el 1876.",
    ),
    "cs": (
        "[[Soubor:Maják.jpg|náhled|Maják u [[moře]]]]\n{{Infobox - stavba}}\n'''Maják''' je [[věž]] na pobřeží.<ref>Kniha</ref>\n== Historie ==\nPostaven roku [[1876]].\n== Reference ==\n<references/>\n[[Kategorie:Majáky]]",
        "Maják je věž na pobřeží.\n\nHistorie\n\nPostaven roku 1876.",
    ),
    "da": (
        "[[Billede:Fyr.jpg|thumb|Fyret ved [[havet]]]]\nEt '''fyr''' er et [[tårn]] ved kysten.<ref>Bog</ref>\n== Historie ==\nBygget i [[1876]].\n[[Kategori:Fyrtårne]]",
        "Et fyr er et tårn ved kysten.\n\nHistorie\n\nBygget i 1876.",
    ),
    "de": (
        "[[Bild:Turm.jpg|mini|Der ''Turm'' am [[Meer]]]]\nDer '''Leuchtturm''' ({{enS|lighthouse}}) ist ein [[Turm|Bauwerk]] an der [[Küste]].<ref>{{Literatur|Titel=Buch}}</ref>\n"
        "== Geschichte ==\n{{Hauptartikel|Geschichte}}\nEr wurde [[1876]] gebaut.\n== Einzelnachweise ==\n<references />\n{{SORTIERUNG:Turm}}\n[[Kategorie:Leuchtturm]]",
        "Der Leuchtturm ist ein Bauwerk an der Küste.\n\nGeschichte\n\nEr wurde 1876 gebaut.",
    ),
    "es": (
        "[[Archivo:Faro.jpg|miniaturadeimagen|El [[faro]]]]\nEl '''faro''' es una [[torre]] de la costa.{{cita requerida}}\n== Historia ==\nFue construido en [[1876]].\n== Referencias ==\n{{listaref}}\n[[Categoría:Faros]]",
        "El faro es una torre de la costa.\n\nHistoria\n\nFue construido en 1876.",
    ),
    "fr": (
        "[[Fichier:Phare.jpg|vignette|Le [[phare]]]]\n{{Infobox Phare}}\nL{{'}}'''ancien phare''' est une [[tour]] du {{s|XIX|e}}, de {{unité|31|mètres}}, l'''un'' des plus hauts<ref>Livre</ref>.\n"
        "== Histoire ==\n{{Article détaillé|Histoire}}\nConstruit le {{date|3|mai|1876}}, {{nobr|à 5 km}} du port.\n== Notes et références ==\n{{Références}}\n[[Catégorie:Phare]]",
        "L'ancien phare est une tour du XIXe siècle, de 31 mètres, l'un des plus hauts.\n\nHistoire\n\nConstruit le 3 mai 1876, à 5 km du port.",
    ),
    "hr": (
        "[[Slika:Svjetionik.jpg|mini|desno|Svjetionik uz [[more]]]]\n'''Svjetionik''' je [[toranj]] na obali.<ref>Knjiga</ref>\n== Povijest ==\nSagrađen je [[1876.]]\n== Izvori ==\n{{izvori}}\n[[Kategorija:Svjetionici]]",
        "Svjetionik je toranj na obali.\n\nPovijest\n\nSagrađen je 1876.",
    ),
    "hu": (
        "[[Kép:Torony.jpg|bélyegkép|A [[torony]]]]\nA '''világítótorony''' egy [[torony|építmény]] a parton.<ref>Könyv</ref>\n== Története ==\n[[1876]]-ban épült.\n== Jegyzetek ==\n{{jegyzetek}}\n[[Kategória:Világítótornyok]]",
        "A világítótorony egy építmény a parton.\n\nTörténete\n\n1876-ban épült.",
    ),
    "it": (
        "[[Immagine:Faro.jpg|thumb|Il [[faro]]]]\nIl '''faro''' è una [[torre]] della costa.{{senza fonte}}\n== Storia ==\n{{vedi anche|Storia}}\nFu costruito nel [[1876]].\n== Note ==\n<references/>\n[[Categoria:Fari]]",
        "Il faro è una torre della costa.\n\nStoria\n\nFu costruito nel 1876.",
    ),
    "ja": (
        "[[画像:灯台.jpg|thumb|[[港]]の灯台]]\n{{出典の明記|date=2020年5月}}\n'''{{読み仮名|灯台|とうだい}}'''は、[[海岸]]に建つ[[塔|建物]]である<ref>本</ref>。\n== 歴史 ==\n[[1876年]]に{{仮リンク|技師|en|Engineer}}が建てた。\n== 脚注 ==\n{{reflist}}\n[[Category:灯台]]",
        "灯台（とうだい）は、海岸に建つ建物である。\n\n歴史\n\n1876年に技師が建てた。",
    ),
    "nl": (
        "[[Afbeelding:Toren.jpg|thumb|De [[vuurtoren]]]]\nEen '''vuurtoren''' is een [[toren]] aan de kust.<ref>Boek</ref>\n== Geschiedenis ==\nGebouwd in [[1876]].\n{{Appendix}}\n[[Categorie:Vuurtoren]]",
        "Een vuurtoren is een toren aan de kust.\n\nGeschiedenis\n\nGebouwd in 1876.",
    ),
    "pl": (
        "[[Plik:Latarnia.jpg|mały|Latarnia nad [[morze]]m]]\n'''Latarnia morska''' – [[wieża]] na [[wybrzeże|wybrzeżu]]{{r|książka}}.\n== Historia ==\nZbudowana w [[1876]].\n== Przypisy ==\n{{Przypisy}}\n[[Kategoria:Latarnie morskie]]",
        "Latarnia morska – wieża na wybrzeżu.\n\nHistoria\n\nZbudowana w 1876.",
    ),
    "pt": (
        "[[Ficheiro:Farol.jpg|miniaturadaimagem|O [[farol]]]]\nO '''farol''' é uma [[torre]] da costa.{{carece de fontes}}\n== História ==\nFoi construído em [[1876]].\n{{referências}}\n[[Categoria:Faróis]]",
        "O farol é uma torre da costa.\n\nHistória\n\nFoi construído em 1876.",
    ),
    "ro": (
        "[[Fișier:Far.jpg|thumb|[[Farul]] vechi]]\n'''Farul''' este un [[turn]] pe coastă.<ref>Carte</ref>\n== Istorie ==\nA fost construit în [[1876]].\n== Note ==\n{{Listănote}}\n[[Categorie:Faruri]]",
        "Farul este un turn pe coastă.\n\nIstorie\n\nA fost construit în 1876.",
    ),
    "ru": (
        "[[Изображение:Маяк.jpg|мини|Маяк у [[море|моря]]]]\n{{Карточка}}\n'''Маяк''' ({{lang-en|lighthouse}}) — [[башня]] на берегу{{нет АИ}}.\n== История ==\nПостроен в [[1876 год]]у {{не переведено 5|Инженер Грей|инженером Греем||Grey}}.\n== Примечания ==\n{{примечания}}\n[[Категория:Маяки]]",
        "Маяк (lighthouse) — башня на берегу.\n\nИстория\n\nПостроен в 1876 году инженером Греем.",
    ),
    "sl": (
        "[[Slika:Svetilnik.jpg|sličica|Svetilnik ob [[morje|morju]]]]\n'''Svetilnik''' je [[stolp]] na obali.<ref>Knjiga</ref>\n== Zgodovina ==\nZgrajen leta [[1876]].\n== Sklici ==\n{{sklici}}\n[[Kategorija:Svetilniki]]",
        "Svetilnik je stolp na obali.\n\nZgodovina\n\nZgrajen leta 1876.",
    ),
    "sr": (
        "[[Слика:Светионик.jpg|мини|Светионик уз [[море]]]]\n'''Светионик''' (-{Lighthouse}-) је [[торањ]] на обали.<ref>Књига</ref>\n== Историја ==\nСаграђен [[1876]]. -{sr-ec:године; sr-el:godine}-.\n== Референце ==\n{{reflist}}\n[[Категорија:Светионици]]",
        "Светионик (Lighthouse) је торањ на обали.\n\nИсторија\n\nСаграђен 1876. године.",
    ),
    "sv": (
        "[[Bild:Fyr.jpg|mini|Fyren vid [[havet]]]]\nEn '''fyr''' är ett [[torn]] vid kusten.<ref>Bok</ref>\n== Historia ==\nByggd [[1876]].\n== Referenser ==\n{{noter}}\n[[Kategori:Fyrar]]",
        "En fyr är ett torn vid kusten.\n\nHistoria\n\nByggd 1876.",
    ),
    "uk": (
        "[[Зображення:Маяк.jpg|міні|Маяк біля [[море|моря]]]]\n'''Маяк''' ({{lang-en|lighthouse}}) — [[вежа]] на березі<ref>Книга</ref>.\n== Історія ==\nЗбудований [[1876]] року.\n== Примітки ==\n{{reflist}}\n[[Категорія:Маяки]]",
        "Маяк (lighthouse) — вежа на березі.\n\nІсторія\n\nЗбудований 1876 року.",
    ),
    "zh": (
        "[[檔案:燈塔.jpg|thumb|[[港口]]的燈塔]]\n{{NoteTA|T=zh-hans:灯塔;zh-hant:燈塔}}\n'''灯塔'''（{{lang-en|Lighthouse}}）是[[海岸]]边的[[塔|建筑]]，由-{zh-hans:计算机; zh-hant:電腦}-控制{{fact}}。\n"
        "== 历史 ==\n建于[[1876年]]，由{{link-en|工程师|Engineer}}设计。-{T|灯塔}-\n== 参考文献 ==\n{{reflist}}\n[[分类:灯塔]]",
        "灯塔（Lighthouse）是海岸边的建筑，由计算机控制。\n\n历史\n\n建于1876年，由工程师设计。",
    ),
}
"""Wikitext and text of an article by language."""
