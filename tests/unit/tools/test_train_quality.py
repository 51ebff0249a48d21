"""A quality classifier, from its pages to the rule that uses it."""

from __future__ import annotations

import bz2
import json
from pathlib import Path

import fasttext
import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.config import DataConfig
from data_prep.dedup.stage import dedup
from data_prep.extract import extract
from data_prep.rules.decide import decide
from data_prep.run.commit_records import StaleOutputError
from data_prep.run.directory import RunDirectory
from data_prep.signals.measure import measure
from data_prep.signals.quality import QualityClassifier
from foundation.configuration import ConfigError, load_config
from tests.unit.data_prep.test_citations import dump, page
from tools.train_quality import Sample, main

SCIENCE = [
    "theorem",
    "cell",
    "energy",
    "species",
    "century",
    "river",
    "treaty",
    "method",
    "data",
    "result",
    "university",
    "museum",
]
SHOP = "buy cheap sale discount shipping cart offer click casino bonus deal price".split()  # noqa: SIM905


def pages(kind: list[str], count: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    filler = [f"word{k}" for k in range(50)]
    return [" ".join(generator.choice([*kind, *filler], size=60).tolist()) + "\n" for _ in range(count)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    rows = [{"url": f"https://good.org/{k}", "text": text} for k, text in enumerate(pages(SCIENCE, 100, 1))]
    rows += [{"url": f"https://shop.example/{k}", "text": text} for k, text in enumerate(pages(SHOP, 300, 2))]
    (folder / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    references = "".join(f"x<ref name=a>{{{{cite|url=http://www.good.org/{k}/ |t}}}}</ref>" for k in range(100))
    (folder / "wiki.xml.bz2").write_bytes(bz2.compress(dump(page(references)).encode()))
    path = folder / "quality.bin"
    arguments = ["--pages", str(folder / "pages.jsonl"), "--cited", str(folder / "wiki.xml.bz2"), "--epochs", "20"]
    assert main([*arguments, "--rate", "0.5", "--output", str(path)]) == 0
    return path


def probabilities(model: Path, texts: list[str]) -> np.ndarray:
    data = "".join(texts).encode()
    offsets = np.cumsum([0, *(len(text.encode()) for text in texts)]).astype(np.int64)
    return np.array(QualityClassifier(model, "cited").probabilities(np.frombuffer(data, dtype=np.uint8), offsets))


def test_unseen_pages_are_told_apart(model: Path) -> None:
    assert (probabilities(model, pages(SCIENCE, 50, 3)) > 0.5).mean() > 0.95
    assert (probabilities(model, pages(SHOP, 50, 4)) < 0.5).mean() > 0.95


def test_fasttexts_own_library_reads_the_model(model: Path) -> None:
    library = fasttext.load_model(str(model))
    texts = [*pages(SCIENCE, 5, 5), *pages(SHOP, 5, 6), "unknown words only"]
    for text, ours in zip(texts, probabilities(model, texts), strict=True):
        labels, (probability, *_) = library.predict(text.replace("\n", " "), k=1)
        theirs = probability if labels[0] == "__label__cited" else 1 - probability
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_the_signal_and_the_rule(model: Path, tmp_path: Path) -> None:
    texts = [*pages(SCIENCE, 3, 7), *pages(SHOP, 3, 8)]
    (tmp_path / "web.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = {"name": "web", "kind": "jsonl", "paths": [str(tmp_path / "web.jsonl")], "rules": ["quality"]}
    settings = {"output": tmp_path / "run", "workers": 1, "sources": [source]}
    config = DataConfig.model_validate({**settings, "quality": {"model": model}})
    run = RunDirectory(config.output)
    for stage in (extract, measure, dedup, decide):
        stage(config, run)
    signals = pq.read_table(run.signals / "web-00000.parquet").column("quality_probability").to_numpy()
    assert signals == pytest.approx(probabilities(model, texts))
    verdicts = pq.read_table(run.verdicts / "web-00000.parquet").to_pylist()
    assert [row["reasons"] for row in verdicts] == [[]] * 3 + [["quality.probability"]] * 3
    other = DataConfig.model_validate({**settings, "quality": {"model": model, "label": "other"}})
    with pytest.raises(StaleOutputError, match=r"quality\.label is 'other'.*--restart measure"):
        measure(other, run)


def test_what_cannot_work_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"has the labels cited, other; it must have two, of which .*'good' is one"):
        QualityClassifier(model, "good")
    path = tmp_path / "data.yaml"
    path.write_text(f"output: {tmp_path}/run\nsources: [{{name: a, kind: text, paths: [x], rules: [quality]}}]\n")
    with pytest.raises(ConfigError, match=r"`quality` needs a classifier, and quality\.model names none"):
        load_config(DataConfig, path, [])
    assert main(["--pages", "x", "--output", str(tmp_path / "m.bin")]) == 2
    usage = "give --cited with either --pages or --config, or --cited-pages with --other-pages"
    assert usage in capsys.readouterr().err
    for arguments, told in (
        (["--cited", "x", "--pages", "y", "--config", "z"], usage),
        (["--cited", "x", "--cited-pages", "y", "--other-pages", "z"], usage),
        (["--cited", "x", "--pages", "y", "--workers", "0"], "--workers 0: must be at least 1"),
        (["seed=2", "--cited", "x", "--pages", "y"], "seed=2: has no effect without --config"),
        (["--cited-pages", str(path), "--other-pages", str(path)], "0 pages are cited and 0 are others; 10 of each"),
    ):
        assert main([*arguments, "--output", str(tmp_path / "m.bin")]) == 2
        assert told in capsys.readouterr().err, arguments


def test_the_list_beside_the_model_and_the_pages_of_a_run(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = model.with_suffix(".cited.txt")
    assert listed.read_text() == "".join(f"http://www.good.org/{k}/\n" for k in range(100))
    source = {"name": "web", "kind": "jsonl", "paths": [str(model.parent / "pages.jsonl")]}
    config = DataConfig.model_validate({"output": tmp_path / "run", "workers": 1, "sources": [source]})
    (tmp_path / "data.yaml").write_text(config.model_dump_json())
    arguments = ["--cited", str(listed), "--epochs", "20", "--rate", "0.5", "--output", str(tmp_path / "again.bin")]
    assert main([*arguments, "--config", str(tmp_path / "data.yaml")]) == 2
    assert "run `altiplano data extract` first" in capsys.readouterr().err
    extract(config, RunDirectory(config.output))
    assert main([*arguments, "--config", str(tmp_path / "data.yaml")]) == 0
    assert (tmp_path / "again.bin").read_bytes() == model.read_bytes(), "the same pages in the same order"
    printed = capsys.readouterr().out
    assert "train-quality: 100 of 400 pages are cited" in printed
    assert "held out: 10 pages of each kind; cited ones recognised" in printed


def test_a_sample_gives_each_page_the_same_chance() -> None:
    counts = np.zeros(20)
    for seed in range(2000):
        sample = Sample(5, seed)
        for k in range(20):
            sample.add(f"{k} ")
        assert sample.seen == 20 and len(sample.pages) == 5
        counts[[int(page) for page in sample.pages]] += 1
    assert abs(counts - 500).max() < 100  # five standard deviations
    whole = Sample(20, 1)
    for k in range(20):
        whole.add(f"{k} ")
    assert [int(page) for page in whole.pages] == list(range(20))
