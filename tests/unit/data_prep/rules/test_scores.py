"""Scores that come with the documents: as rules, and as weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.config import DataConfig
from data_prep.dedup.stage import dedup
from data_prep.extract import extract
from data_prep.ledger.counts import count_documents
from data_prep.ledger.why import explain
from data_prep.rules import rules_named
from data_prep.rules.compare import compare
from data_prep.rules.decide import decide
from data_prep.run.commit_records import StaleOutputError
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import load_manifest
from data_prep.signals.fingerprints import exact_hash
from data_prep.signals.measure import measure


def configuration(folder: Path, rules: list[str], **values: Any) -> DataConfig:
    source = {"name": "web", "kind": "jsonl", "paths": [str(folder / "raw")], "rules": rules}
    return DataConfig.model_validate({"output": folder / "run", "sources": [source], "workers": 1, **values})


def write(folder: Path, records: list[dict[str, Any]]) -> None:
    (folder / "raw").mkdir(exist_ok=True)
    (folder / "raw" / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def verdicts_of(config: DataConfig) -> list[dict[str, Any]]:
    run = RunDirectory(config.output)
    for stage in (extract, measure, dedup, decide):
        stage(config, run)
    names = load_manifest(run).shard_names
    return [row for name in names for row in pq.read_table(run.verdicts / f"{name}.parquet").to_pylist()]


RECORDS = [
    {"text": "First text of a person.", "score": 3.2, "quality": {"toxic": 0.1}},
    {"text": "Second text of a person.", "score": 3, "quality": {"toxic": 0.7}},
    {"text": "Third text of a person.", "score": 2.999, "quality": {"toxic": 0}},
    {"text": "Fourth text, without a score."},
    {"text": "Fifth text, with a word for a score.", "score": "3.5", "quality": None},
    {"text": "Sixth text, with a truth value.", "score": True},
    {"text": "Seventh text, with no number.", "score": float("inf"), "quality": {"toxic": None}},
]
SCORES = {"educational": {"field": "score", "minimum": 3}, "toxic": {"field": "quality.toxic", "maximum": 0.5}}


def test_thresholds_are_rules_with_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, RECORDS)
    config = configuration(tmp_path, ["scores"], scores=SCORES)
    low, high = "scores.educational", "scores.toxic_maximum"
    assert [row["reasons"] for row in verdicts_of(config)] == [
        [], [high], [low], [low, high], [low, high], [low, high], [low, high]
    ]  # fmt: skip
    assert "scores.educational: 4 of 7 documents have no number 'score'" in capsys.readouterr().out
    run = RunDirectory(config.output)
    assert count_documents(load_manifest(run), run).total.by_reason == {low: 5, high: 1}
    told = explain(config, run, "web-00000/0000002")
    assert "FAILS     scores.educational" in told and "2.999 (scores.educational at least 3;" in told
    assert "passes    scores.toxic_maximum" in told and "(scores.toxic at most 0.5)" in told
    compared = compare(config, run, "configured", "language")
    assert compared.documents["all"].tolist()[:2] == [7, 1]
    # thresholds do not touch the signals
    lower = configuration(tmp_path, ["scores"], scores={**SCORES, "educational": {"field": "score", "minimum": 2}})
    measure(lower, run)
    with pytest.raises(StaleOutputError, match=r"rules\.web\.scores\.educational is 'scores.educational at least 2'"):
        dedup(lower, run)
    other = configuration(tmp_path, ["scores"], scores={**SCORES, "educational": {"field": "int_score", "minimum": 3}})
    with pytest.raises(StaleOutputError, match=r"the setting scores\.educational is 'int_score'"):
        measure(other, run)


def test_documents_without_a_score_can_be_kept(tmp_path: Path) -> None:
    write(tmp_path, RECORDS)
    scores = {"educational": {"field": "score", "minimum": 3, "without": "keep"}}
    config = configuration(tmp_path, ["scores"], scores=scores)
    assert [row["kept"] for row in verdicts_of(config)] == [True, True, False, True, True, True, True]


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.int64(), pa.uint8()])
def test_a_column_of_parquet_is_a_score(tmp_path: Path, kind: pa.DataType) -> None:
    (tmp_path / "raw").mkdir()
    table = pa.table({"text": [f"Text number {k} of the table." for k in range(6)], "score": pa.array(range(6), kind)})
    pq.write_table(table, tmp_path / "raw" / "a.parquet")
    source = {"name": "web", "kind": "parquet", "paths": [str(tmp_path / "raw")], "rules": ["scores"]}
    config = configuration(
        tmp_path, ["scores"], scores={"educational": {"field": "score", "minimum": 3}}, sources=[source]
    )
    assert [row["kept"] for row in verdicts_of(config)] == [False] * 3 + [True] * 3


def test_a_field_that_no_document_has_is_refused(tmp_path: Path) -> None:
    write(tmp_path, RECORDS)
    config = configuration(tmp_path, ["scores"], scores={"educational": {"field": "scor", "minimum": 3}})
    with pytest.raises(ValueError, match=r"scores\.educational\.field: none of the 7 documents has a number 'scor'"):
        verdicts_of(config)


def records_with(scores: list[float]) -> list[dict[str, Any]]:
    return [
        {"text": f"Document {k} of many, with words of its own {k * 31}.", "score": s} for k, s in enumerate(scores)
    ]


def test_shares_follow_the_score(tmp_path: Path) -> None:
    scores = [float(k % 5) for k in range(3000)]
    write(tmp_path, records_with(scores))
    sampling = {"educational": {"score": "educational", "shares": [[0, 0], [2, 0.2], [4, 1]]}}
    named = {"educational": {"field": "score"}}
    config = configuration(tmp_path, ["sampled"], scores=named, sampling=sampling)
    kept = np.array([row["kept"] for row in verdicts_of(config)]).reshape(-1, 5)
    expected = np.array([0, 0.1, 0.2, 0.6, 1])
    deviations = np.sqrt(expected * (1 - expected) / len(kept))
    assert (np.abs(kept.mean(axis=0) - expected) <= 4 * deviations).all()
    told = explain(config, RunDirectory(config.output), "web-00000/0000000")
    assert "FAILS     sampled.educational" in told and "drawn with probability 0 at 0, 0.2 at 2, 1 at 4" in told


def test_copies_share_their_lot_whatever_the_order(tmp_path: Path) -> None:
    records = records_with([1.0] * 200)
    named, sampling = {"a": {"field": "score"}}, {"a": {"score": "a", "shares": [[0, 0.5]]}}

    def kept_of(folder: Path, some: list[dict[str, Any]], **values: Any) -> list[str]:
        folder.mkdir()
        write(folder, some)
        config = configuration(folder, ["sampled"], scores=named, sampling=sampling, **values)
        rows = verdicts_of(config)
        texts = [row["text"] for row in some]
        return sorted(text for row, text in zip(rows, texts, strict=True) if row["kept"])

    kept = kept_of(tmp_path / "a", records)
    assert 60 < len(kept) < 140
    assert kept_of(tmp_path / "b", records[::-1], shard_bytes=2000, workers=2) == kept
    assert kept_of(tmp_path / "c", [*records, *records]) == kept
    assert kept_of(tmp_path / "d", records, seed=5) != kept


def test_gpt3s_rule_is_that_of_a_pareto_variable(tmp_path: Path) -> None:
    """Appendix A: a document is kept if np.random.pareto(9) > 1 - score."""
    sampling = {"gpt3": {"score": "quality", "pareto": 9}}
    (tmp_path / "model").write_bytes(b"")
    config = configuration(tmp_path, ["sampled"], sampling=sampling, quality={"model": str(tmp_path / "model")})
    (rule,) = rules_named(config, ["sampled"])
    generator = np.random.default_rng(1)
    for score in (0.0, 0.3, 0.8, 0.99, 1.0):
        drawn = float((generator.pareto(9, 400_000) > 1 - score).mean())
        hashes = np.array([exact_hash(b"%d" % k) for k in range(20_000)], dtype=object)
        signals = {
            "quality_probability": np.full(20_000, score),
            "exact_hash": hashes,
            "language": np.array(["en"] * 20_000),
        }
        assert 1 - rule.fails(signals).mean() == pytest.approx(drawn, abs=0.02)
    signals = {"quality_probability": np.array([np.nan]), "exact_hash": hashes[:1], "language": np.array(["en"])}
    assert rule.fails(signals).tolist() == [True]


@pytest.mark.parametrize(
    ("rules", "values", "message"),
    [
        (["scores"], {}, "rule set `scores` needs thresholds"),
        (["scores"], {"scores": {"a": {"field": "b"}}}, "rule set `scores` needs thresholds"),
        (["sampled"], {}, "rule set `sampled` needs shares: name scores in sampling"),
        (["sampled"], {"sampling": {"a": {"score": "b", "pareto": 9}}}, "no score is called 'b'; there are quality"),
        (["sampled"], {"sampling": {"a": {"pareto": 9}}}, "'quality' needs a classifier, and quality.model names none"),
        ([], {"sampling": {"a": {}}}, "shares: give either shares or pareto"),
        ([], {"sampling": {"a": {"shares": [[1, 0.5]], "pareto": 9}}}, "shares: give either shares or pareto"),
        ([], {"sampling": {"a": {"shares": [[2, 0.5], [1, 1]]}}}, "scores must ascend, they are 2, 1"),
        ([], {"sampling": {"a": {"shares": [[2, 1.5]]}}}, "1.5 at 2 must be from 0 to 1; the weight of a source"),
        (
            [],
            {"scores": {"a": {"field": "b", "minimum": 2, "maximum": 1}}},
            "minimum 2 must not be more than maximum 1",
        ),
        ([], {"scores": {"A b": {"field": "b"}}}, "String should match pattern"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, rules: list[str], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        configuration(tmp_path, rules, **values)
    assert message in str(error.value)
