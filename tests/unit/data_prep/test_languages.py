"""The labels of every model and the codes that people use name the same languages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from data_prep.config import DataConfig, LanguageConfig
from data_prep.languages import UnknownLanguageError, canonical, canonical_labels, is_one_of, meant_for
from data_prep.rules import PUBLISHED_RULE_SETS, rules_of_source
from data_prep.rules.decide import judge
from data_prep.rules.language import rules_of
from data_prep.signals.fasttext.model import FastTextModelError
from data_prep.signals.language import LanguageIdentifier, check_languages, installed_model_path
from data_prep.signals.measure import measure_documents
from data_prep.signals.texts import Instruments
from tools.bench.data import load


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("zh", "zh zho chi cmn zho_Hans zho_Hani cmn_Hans cmn_Hani zh-Hans"),
        ("zh_Hant", "zho_Hant cmn_Hant zh_hant"),
        ("yue", "yue yue_Hant yue_Hani"),
        ("ar", "ar ara arb arb_Arab ara_Arab"), ("arz", "arz arz_Arab"),
        ("no", "no nb nor nob nob_Latn"), ("nn", "nn nno nno_Latn"),
        ("fa", "fa fas pes per pes_Arab fas_Arab"), ("prs", "prs_Arab"),
        ("sw", "sw swa swh swh_Latn"), ("ms", "ms msa zsm zsm_Latn may"), ("id", "id ind_Latn in"),
        ("lv", "lv lav lvs lvs_Latn"), ("et", "et est ekk ekk_Latn"), ("sq", "sq sqi alb als_Latn"), ("gsw", "gsw als"),
        ("uz", "uz uzb uzn_Latn"), ("uz_Cyrl", "uzn_Cyrl"), ("mn", "mn mon khk_Cyrl"), ("yi", "yi yid ydd_Hebr ji"),
        ("ne", "ne nep npi_Deva"), ("or", "or ori ory_Orya"), ("az", "az aze azj_Latn"), ("azb", "azb azb_Arab"),
        ("ku", "ku kur kmr_Latn"), ("ckb", "ckb ckb_Arab"), ("mg", "mg mlg plt_Latn"), ("qu", "qu que quy_Latn"),
        ("sr", "sr srp srp_Cyrl scc"), ("sr_Latn", "srp_Latn sr-Latn"), ("ja", "ja jpn_Jpan"),
        ("ko", "ko kor_Hang kor_Kore"), ("ur_Latn", "urd_Latn"), ("ks_Deva", "kas_Deva"), ("he", "iw heb_Hebr"),
        ("en", "en eng eng_Latn"), ("und", "und und_Latn zxx_Zzzz"),
    ],
)  # fmt: skip
def test_labels_of_all_models_have_one_name(name: str, labels: str) -> None:
    assert {canonical(label) for label in labels.split()} == {name}


def test_labels_that_name_no_language_are_listed() -> None:
    for label in ("qq", "english", "zh-cn", "__label__hq", "en_", ""):
        with pytest.raises(UnknownLanguageError):
            canonical(label)
    with pytest.raises(UnknownLanguageError, match="do not name a language: 'hq', 'lq'; use codes"):
        canonical_labels(["en", "hq", "lq"])


def test_a_setting_with_a_script_means_this_script() -> None:
    assert is_one_of("zh_Hant", ["zh"]) and is_one_of("zh", ["zh"]) and is_one_of("zh", ["zh_Hans"])
    assert not is_one_of("zh", ["zh_Hant"]) and not is_one_of("zh_Hant", ["zh_Hans"])
    assert meant_for("zh_Hant", ["zh", "zh_Hant"]) == "zh_Hant" and meant_for("zh", ["zh", "zh_Hant"]) == "zh"


def configured(**settings: object) -> DataConfig:
    source = {"name": "a", "kind": "jsonl", "paths": ["/a"]}
    return DataConfig.model_validate({"output": "/out", "sources": [source], **settings})


def test_settings_are_read_by_name() -> None:
    config = configured(language={"keep": ["eng_Latn", "zho_Hant"]}, tokenizer={"language_weights": {"arb": 2.0}})
    assert config.language.keep == ("en_Latn", "zh_Hant") and config.tokenizer.language_weights == {"ar": 2.0}
    files = {"model": "/m", "tokenizer": "/t"}
    assert list(configured(perplexity={"zho": files}).perplexity) == ["zh"]
    for settings, told in [
        ({"language": {"keep": ["en", "xy", "qq"]}}, "'xy', 'qq'"),
        ({"language": {"keep": ["zh", "cmn"]}}, "'zh', 'cmn' name the same language"),
        ({"language": {"keep": ["als"]}}, "write 'gsw' or 'sq'"),
        ({"tokenizer": {"language_weights": {"English": 1.0}}}, "'English'"),
        ({"perplexity": {"zz": files}}, "'zz'"),
    ]:
        with pytest.raises(ValidationError, match=told):
            configured(**settings)


def test_a_language_that_the_model_never_finds_is_an_error_at_the_start() -> None:
    check_languages(configured(language={"keep": ["en", "zho_Hans"]}))
    with pytest.raises(ValueError, match=r"language\.keep: zh_Hant, tlh cannot be identified by .*lid\.176\.ftz"):
        check_languages(configured(language={"keep": ["en", "zh_Hant", "tlh"]}))


CORPUS = Path(__file__).parents[4] / "shared" / "data" / "corpus.jsonl.zst"
LABELS = """
en:eng_Latn ru:rus_Cyrl de:deu_Latn fr:fra_Latn it:ita_Latn ja:jpn_Jpan es:spa_Latn tr:tur_Latn pt:por_Latn
uk:ukr_Cyrl eo:epo_Latn pl:pol_Latn sv:swe_Latn nl:nld_Latn he:heb_Hebr zh:zho_Hani hu:hun_Latn ar:arb_Arab
ca:cat_Latn fi:fin_Latn cs:ces_Latn fa:pes_Arab sr:srp_Cyrl el:ell_Grek vi:vie_Latn bg:bul_Cyrl ko:kor_Hang
no:nob_Latn mk:mkd_Cyrl ro:ron_Latn id:ind_Latn th:tha_Thai hy:hye_Armn da:dan_Latn ta:tam_Taml hi:hin_Deva
hr:hrv_Latn be:bel_Cyrl ka:kat_Geor te:tel_Telu kk:kaz_Cyrl lt:lit_Latn gl:glg_Latn sk:slk_Latn bn:ben_Beng
eu:eus_Latn sl:slv_Latn kn:kan_Knda ml:mal_Mlym mr:mar_Deva et:ekk_Latn ms:zsm_Latn sq:als_Latn la:lat_Latn
bs:bos_Latn nn:nno_Latn ur:urd_Arab lv:lvs_Latn af:afr_Latn is:isl_Latn cy:cym_Latn sw:swh_Latn yo:yor_Latn
yue:yue_Hani qu:quy_Latn so:som_Latn am:amh_Ethi ga:gle_Latn mt:mlt_Latn ne:npi_Deva or:ory_Orya gu:guj_Gujr
"""
GLOTLID = dict(pair.split(":") for pair in LABELS.split())
"""The label of lid.176 and that of GlotLID, for what a corpus holds most."""
TEXTS = {
    "zh": "这个村庄坐落在山脚下，人们在梯田里种植土豆和藜麦。旧路通向市场，星期天很多人去那里。" * 5,
    "ja": "この村は山のふもとにあり、人々は段々畑でじゃがいもとキヌアを育てている。古い道は市場へ続いている。" * 5,
    "en": "The village lies at the foot of the mountain, and its people grow potatoes and quinoa on terraces. " * 5,
    "ar": "تقع القرية عند سفح الجبل ويزرع أهلها البطاطس والكينوا في المدرجات القديمة قرب السوق. " * 5,
    "fr": "Le village se trouve au pied de la montagne et ses habitants cultivent des pommes de terre. " * 5,
}


@pytest.fixture(scope="module")
def relabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lid.176 with its most frequent labels in the style of GlotLID; each is a string that ends with a zero byte."""
    content = installed_model_path().read_bytes()
    for label, other in GLOTLID.items():
        old, new = f"__label__{label}\0".encode(), f"__label__{other}\0".encode()
        assert content.count(old) == 1
        content = content.replace(old, new)
    path = tmp_path_factory.mktemp("model") / "glotlid.ftz"
    path.write_bytes(content)
    return path


def test_verdicts_do_not_depend_on_the_style_of_labels(relabelled: Path) -> None:
    theirs, ours = LanguageIdentifier(relabelled), LanguageIdentifier()
    assert {"zho_Hani", "eng_Latn"} <= set(theirs._model.labels)
    for language, text in TEXTS.items():
        assert theirs.identify(text) == ours.identify(text) and ours.identify(text)[0] == language
    assert theirs.languages == ours.languages


@pytest.mark.skipif(not CORPUS.is_file(), reason=f"no corpus at {CORPUS.name}")
def test_whole_verdicts_of_real_documents_do_not_depend_on_the_style_of_labels(relabelled: Path) -> None:
    texts = [text for text, _ in load(CORPUS, 60) if text.strip()][:400]
    assert len(texts) > 300
    identities = [f"web-00000/{row:07d}" for row in range(len(texts))]
    documents = pa.table({"id": identities, "text": pa.array(texts, pa.large_string())})
    rule_sets = sorted({"language", *PUBLISHED_RULE_SETS})
    verdicts, languages = [], []
    for model in (None, relabelled):
        config = DataConfig.model_validate(
            {
                "output": "run",
                "sources": [{"name": "web", "kind": "jsonl", "paths": ["/raw"], "rules": rule_sets}],
                "language": {"keep": ["en", "zho_Hans", "deu"], **({"model": model} if model else {})},
            }
        )
        measured = measure_documents(documents, config.fingerprints, Instruments.of(config))
        rules = rules_of_source(config, "web")
        columns = {"id", "language", *(rule.signal for rule in rules)}
        signals = {name: measured.column(name).to_numpy(zero_copy_only=False) for name in sorted(columns)}
        verdicts.append(judge(signals, rules, {}, "web").to_pylist())
        languages.append(measured.column("language").to_pylist())
    assert languages[0] == languages[1]
    assert verdicts[0] == verdicts[1]
    assert len(set(languages[0])) > 5
    reasons = {reason.partition(".")[0] for verdict in verdicts[0] for reason in verdict["reasons"]}
    assert {"language", "gopher", "roots"} <= reasons


def test_rules_ask_a_script_of_a_language_as_the_language() -> None:
    rules = [rule for name in ("gopher", "fineweb", "roots") for rule in PUBLISHED_RULE_SETS[name]]
    columns = {rule.signal for rule in rules} - {"language"}
    for value in (0.0, 0.1, 0.5, 1.0, 3.0, 100.0):
        signals = {name: np.full(3, value) for name in columns}
        signals["language"] = np.array(["zh", "zh_Hant", "en"])
        for rule in rules:
            plain, script, _ = rule.fails(signals)
            assert plain == script, rule.name
    keep = rules_of(LanguageConfig(keep=("zho_Hant", "eng")))[1]
    assert keep.fails({"language": np.array(["zh", "zh_Hant", "en", "de"])}).tolist() == [True, False, False, True]


def test_a_model_of_something_else_is_refused(tmp_path: Path) -> None:
    content = installed_model_path().read_bytes().replace(b"__label__en\0", b"__label__high quality\0", 1)
    (tmp_path / "quality.ftz").write_bytes(content)
    with pytest.raises(
        FastTextModelError, match="does not identify languages: these labels do not name a language: 'high qu"
    ):
        LanguageIdentifier(tmp_path / "quality.ftz")
