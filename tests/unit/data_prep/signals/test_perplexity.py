"""Perplexity under a model of six entries, worked out by hand, and the buckets that follow from it."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import sentencepiece

from data_prep.config import DataConfig, LanguageModelConfig
from data_prep.dedup.stage import dedup
from data_prep.extract import extract
from data_prep.ledger.why import explain
from data_prep.rules.decide import decide
from data_prep.run.commit_records import StaleOutputError
from data_prep.run.directory import RunDirectory
from data_prep.signals.measure import measure
from data_prep.signals.perplexity import Perplexity, PerplexityError, normalize
from foundation.configuration import ConfigError, load_config
from tools.perplexity_bounds import main as print_bounds

# log10 of probabilities, and what is added when no longer n-gram is known; "▁" begins a word
ARPA = """\\data\\
ngram 1=6
ngram 2=4

\\1-grams:
-2.0\t<unk>
0\t<s>\t-0.4
-0.8\t</s>
-0.5\t▁\t-0.25
-0.6\ta\t-0.125
-0.9\tb\t-0.0625

\\2-grams:
-0.1\t<s> ▁
-0.2\t▁ a
-0.3\ta b
-0.35\tb </s>

\\end\\
"""


NAMES = ["First", "Second", "Third", "Fourth", "Fifth", "Sixth", "Seventh", "Eighth", "Ninth", "Tenth"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> LanguageModelConfig:
    folder = tmp_path_factory.mktemp("perplexity")
    (folder / "en.arpa").write_text(ARPA, encoding="utf-8")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ab a b", "ba"]), model_writer=model, model_type="char", vocab_size=6, minloglevel=2
    )
    (folder / "en.sp.model").write_bytes(model.getvalue())
    return LanguageModelConfig(model=folder / "en.arpa", tokenizer=folder / "en.sp.model")


def perplexity_of(models: LanguageModelConfig, *texts: str, languages: list[str] | None = None) -> list[float]:
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return Perplexity({"en": models}).measure(data, offsets, languages or ["en"] * len(texts)).tolist()


def test_a_known_sentence(models: LanguageModelConfig) -> None:
    # <s> ▁ -0.1, ▁ a -0.2, a b -0.3, b </s> -0.35: four pieces with the end
    assert perplexity_of(models, "ab") == pytest.approx([10 ** (0.95 / 4)], rel=1e-6)


def test_unknown_pairs_and_pieces_back_off(models: LanguageModelConfig) -> None:
    # <s> ▁ -0.1, ▁ then b: -0.25 - 0.9, b then a: -0.0625 - 0.6, a then </s>: -0.125 - 0.8
    assert perplexity_of(models, "ba") == pytest.approx([10 ** ((0.1 + 1.15 + 0.6625 + 0.925) / 4)], rel=1e-6)
    # <s> ▁ -0.1, ▁ then a digit: -0.25 - 2, which leaves nothing to back off from, </s> -0.8
    assert perplexity_of(models, "7") == pytest.approx([10 ** ((0.1 + 2.25 + 0.8) / 3)], rel=1e-6)


def test_each_line_is_a_sentence_and_blank_ones_are_none(models: LanguageModelConfig) -> None:
    two_lines = 10 ** ((0.95 + 0.95) / 8)
    assert perplexity_of(models, "ab\n\n \nab\n", "Áb\r\nAB") == pytest.approx([two_lines, two_lines], rel=1e-6)
    one_line = 10 ** ((0.95 - 0.35 + 0.0625 + 0.5 + 0.2 + 0.3 + 0.35) / 7)  # b then ▁: -0.0625 - 0.5
    assert perplexity_of(models, "ab ab") == pytest.approx([one_line], rel=1e-6)


def test_texts_of_other_languages_and_empty_ones_have_none(models: LanguageModelConfig) -> None:
    found = perplexity_of(models, "ab", "ab", "", "\n \n", languages=["de", "en", "en", "en"])
    assert np.isnan(found).tolist() == [True, False, True, True]


def test_texts_are_made_plain_as_by_ccnet() -> None:
    assert normalize(" Ä «1984», ３—４…\x07 São ") == 'a "0000", 0 - 0... sao'
    assert normalize("。、？１\x85") == ".,?0"
    assert normalize(" \u0301 ") == ""


def corpus(folder: Path, models: LanguageModelConfig, rules: list[str], **bounds: float) -> DataConfig:
    """Ten English documents of one line, which differ in how many of its pieces the model does not know."""
    sentence = "This is a sentence in the English language and here is another one of them, number"
    (folder / "web.jsonl").write_text(
        "".join(json.dumps({"text": f"{name} {sentence} {'a ' * 9 * k}"}) + "\n" for k, name in enumerate(NAMES))
        + json.dumps({"text": "Das ist ein Satz in deutscher Sprache, und hier ist noch ein anderer."})
        + "\n"
    )
    source = {"name": "web", "kind": "jsonl", "paths": [str(folder / "web.jsonl")], "rules": rules}
    settings = {"output": folder / "run", "workers": 1, "sources": [source], "dedup": {"minimum_jaccard": 1}}
    perplexity = {"en": {**models.model_dump(), **bounds}}
    return DataConfig.model_validate({**settings, "perplexity": perplexity})


def test_the_buckets_from_their_bounds_to_the_verdicts(
    models: LanguageModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = corpus(tmp_path, models, [])
    run = RunDirectory(config.output)
    for stage in (extract, measure):
        stage(config, run)
    (tmp_path / "data.yaml").write_text(config.model_dump_json())
    capsys.readouterr()
    assert print_bounds(["--config", str(tmp_path / "data.yaml")]) == 0
    printed = capsys.readouterr().out
    signals = pq.read_table(run.signals / "web-00000.parquet").to_pylist()
    measured = [row["perplexity"] for row in signals]
    assert [row["language"] for row in signals] == ["en"] * 10 + ["de"] and measured[10] is None
    # linear between the third and fourth, and the sixth and seventh, of ten
    ranked = sorted(measured[:10])
    head, middle = ranked[2] * 0.3 + ranked[3] * 0.7, ranked[5] * 0.6 + ranked[6] * 0.4
    assert printed.endswith(
        "perplexity:\n  en:  # 10 documents, few: the bounds mean little\n"
        f"    head: {head:.1f}\n    middle: {middle:.1f}\n"
    )
    for name, bounds, kept in (("ccnet_head", {"head": head}, 3), ("ccnet_middle", {"middle": middle}, 6)):
        judged = corpus(tmp_path, models, [name], **bounds)
        for path in (run.dedup, run.commits / "dedup", run.verdicts, run.commits / "decide"):
            shutil.rmtree(path, ignore_errors=True)
        for stage in (measure, dedup, decide):  # new bounds, and nothing is measured again
            stage(judged, run)
        verdicts = pq.read_table(run.verdicts / "web-00000.parquet").to_pylist()
        assert [row["kept"] for row in verdicts[:10]] == [value <= ranked[kept - 1] for value in measured[:10]]
        assert verdicts[10]["kept"]
        dropped = measured.index(ranked[-1])
        assert verdicts[dropped]["reasons"] == [f"{name}.perplexity"]
        assert f"FAILS     {name}.perplexity" in explain(judged, run, f"web-00000/{dropped}")
        assert f"skipped   {name}.perplexity" in explain(judged, run, "web-00000/10")
    models.tokenizer.touch()  # the content counts
    measure(judged, run)
    changed = tmp_path / "other.arpa"
    changed.write_text(ARPA.replace("-0.35", "-0.36"), encoding="utf-8")
    other = LanguageModelConfig(model=changed, tokenizer=models.tokenizer)
    with pytest.raises(StaleOutputError, match=r"perplexity\.en\.model is .*--restart measure"):
        measure(corpus(tmp_path, other, []), run)


def test_what_cannot_work_is_refused(
    models: LanguageModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.yaml"

    def refused(rules: str, perplexity: str) -> str:
        path.write_text(
            f"output: {tmp_path}/run\nsources: [{{name: a, kind: text, paths: [x], rules: [{rules}]}}]\n{perplexity}"
        )
        with pytest.raises(ConfigError) as error:
            load_config(DataConfig, path)
        return str(error.value)

    files = f"perplexity: {{en: {{model: {models.model}, tokenizer: {models.tokenizer}"
    assert "`ccnet_head` needs perplexity, and `perplexity` names no model" in refused("ccnet_head", "")
    assert "`ccnet_middle` needs perplexity.en.middle" in refused("ccnet_middle", f"{files}, head: 20}}}}")
    assert "head 30 must be less than middle 20" in refused("", f"{files}, head: 30, middle: 20}}}}")

    gone = LanguageModelConfig(model=tmp_path / "gone.bin", tokenizer=models.tokenizer)
    with pytest.raises(PerplexityError, match=r"^perplexity\.de\.model: there is no file .*gone\.bin$"):
        Perplexity({"de": gone})
    swapped = LanguageModelConfig(model=models.tokenizer, tokenizer=models.model)
    with pytest.raises(PerplexityError, match=r"^perplexity\.de: .*en\.sp\.model must be a model of KenLM"):
        Perplexity({"de": swapped})
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(PerplexityError, match=r"^perplexity needs KenLM: `pip install \.\[perplexity\]`$"):
        Perplexity({"en": models})
    path.write_text(f"output: {tmp_path}/run\nsources: [{{name: a, kind: text, paths: [x]}}]\n")
    assert print_bounds(["--config", str(path), "--head", "70"]) == 2
    assert "--head 70 and --middle 60 must rise between 0 and 100" in capsys.readouterr().err


def test_the_bounds_of_several_languages_are_a_base_of_the_configuration(
    models: LanguageModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = corpus(tmp_path, models, [])
    with open(tmp_path / "web.jsonl", "a", encoding="utf-8") as file:
        for k in range(4):
            german = "Hier steht noch ein anderer Satz in deutscher Sprache, und das ist er" + k * " aber auch"
            file.write(json.dumps({"text": german}) + "\n")
        file.write(json.dumps({"text": "Voici une phrase en français, qui est la seule de sa langue."}) + "\n")
    files = config.perplexity["en"]
    config = config.model_copy(update={"perplexity": {language: files for language in ("de", "en", "fr", "sw")}})
    run = RunDirectory(config.output)
    for stage in (extract, measure):
        stage(config, run)
    settings = json.loads(config.model_dump_json(exclude_none=True))
    path, bounds = tmp_path / "data.yaml", tmp_path / "bounds.yaml"
    path.write_text(json.dumps(settings))
    capsys.readouterr()
    assert print_bounds(["--config", str(path), "--write", str(bounds)]) == 0
    written = bounds.read_text()
    printed = capsys.readouterr().out
    assert printed.endswith(f"{written}written to {bounds}: name it in `base:` of the configuration\n")
    assert "  # fr: 1 documents, too few for different bounds\n  # sw: no document has a perplexity\n" in written

    settings["base"] = "bounds.yaml"
    settings["sources"][0]["rules"] = ["ccnet_middle"]
    path.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"`ccnet_middle` needs perplexity\.fr\.middle"):
        load_config(DataConfig, path)
    del settings["perplexity"]["fr"], settings["perplexity"]["sw"]
    path.write_text(json.dumps(settings))
    loaded = load_config(DataConfig, path).perplexity
    rows = pq.read_table(run.signals / "web-00000.parquet").to_pylist()
    for language in ("de", "en"):
        own = [row["perplexity"] for row in rows if row["language"] == language]
        head, middle = np.percentile(np.array(own, np.float32), [30, 60])
        assert (loaded[language].head, loaded[language].middle) == pytest.approx((head, middle), abs=0.051)
