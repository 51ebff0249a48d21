"""Samples: bounded, in the requested proportions, the same for any order of work."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.config import DataConfig, TokenizerConfig
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import Manifest
from data_prep.tokenizer.sample import Sample, is_measured, language_proportions, plan_sample
from tests.unit.data_prep.tokenizer.corpus import make_run, make_texts


def test_sample_is_bounded_and_in_proportion(tmp_path: Path) -> None:
    sources = {"big": make_texts(0, 600), "small": make_texts(1, 20)}
    weights = {"big": 1.0, "small": 1.0}
    config, run, manifest = make_run(tmp_path, sources, weights=weights)
    sizes = {name: sum(len(text.encode()) for text in texts) for name, texts in sources.items()}
    sample = plan_sample(config, run, manifest, "tokenizer", 40_000)
    # The small source is taken whole; what is left of its half goes to the big one.
    assert sample.shares["small", "es"] == 1.0
    assert sample.expected_bytes == pytest.approx(40_000, abs=2)
    read = list(sample.read(run, manifest))
    assert read == list(sample.read(run, manifest))
    assert sum(item.source == "small" for item in read) == 20
    drawn = sum(len(item.document.text.encode()) for item in read if item.source == "big")
    assert drawn == pytest.approx(40_000 - sizes["small"], rel=0.25)
    other = plan_sample(config.model_copy(update={"seed": 99}), run, manifest, "tokenizer", 40_000)
    assert [item.document.id for item in other.read(run, manifest)] != [item.document.id for item in read]


def test_weights_for_some_sources_only(tmp_path: Path) -> None:
    config, run, manifest = make_run(tmp_path, {"a": ["x"], "b": ["y"]})
    half = config.model_copy(
        update={"sources": (config.sources[0].model_copy(update={"weight": 2.0}), config.sources[1])}
    )
    with pytest.raises(ValueError, match="weight is given for some sources and not for b"):
        plan_sample(half, run, manifest, "tokenizer", 100)


LANGUAGES = {"web": {"de": make_texts(3, 400), "fi": make_texts(4, 100)}, "books": {"de": make_texts(5, 50)}}


def make_languages(folder: Path, **settings: object) -> tuple[DataConfig, RunDirectory, Manifest]:
    """A run whose documents are of the languages above, one language to a shard."""
    sources = {name: [text for part in languages.values() for text in part] for name, languages in LANGUAGES.items()}
    languages = {name: [lang for lang, part in parts.items() for _ in part] for name, parts in LANGUAGES.items()}
    return make_run(folder, sources, languages=languages, settings={"tokenizer": settings})


def drawn_bytes(run: RunDirectory, manifest: Manifest, sample: Sample) -> dict[tuple[str, str], int]:
    drawn: dict[tuple[str, str], int] = {}
    for item in sample.read(run, manifest):
        key = (item.source, item.document.language)
        drawn[key] = drawn.get(key, 0) + len(item.document.text.encode())
    return drawn


def test_languages_are_weighed_within_their_source(tmp_path: Path) -> None:
    config, run, manifest = make_languages(tmp_path, language_weights={"fi": 3.0})
    total = sum(len(text.encode()) for part in LANGUAGES.values() for texts in part.values() for text in texts)
    wanted = total // 4
    plain = drawn_bytes(run, manifest, plan_sample(config, run, manifest, "check", wanted))
    weighed = drawn_bytes(run, manifest, plan_sample(config, run, manifest, "tokenizer", wanted, learnt=True))
    assert plain["web", "fi"] / plain["web", "de"] == pytest.approx(1 / 4, rel=0.3)
    assert weighed["web", "fi"] / weighed["web", "de"] == pytest.approx(3 / 4, rel=0.3)
    for drawn in (plain, weighed):
        assert drawn["books", "de"] / sum(drawn.values()) == pytest.approx(50 / 550, rel=0.5)
        assert sum(drawn.values()) == pytest.approx(wanted, rel=0.15)


def test_proportions_by_exponent_and_weight() -> None:
    sizes = {"en": 900, "de": 90, "fi": 10}
    assert language_proportions(sizes, TokenizerConfig()) == pytest.approx({"en": 0.9, "de": 0.09, "fi": 0.01})
    even = language_proportions(sizes, TokenizerConfig(language_exponent=0.0))
    assert even == pytest.approx(dict.fromkeys(sizes, 1 / 3))
    half = language_proportions(sizes, TokenizerConfig(language_exponent=0.5, language_weights={"fi": 2.0}))
    assert half["en"] / half["de"] == pytest.approx(10**0.5) and half["fi"] / half["de"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"language_weights: fi has 0\.0; a factor must be positive"):
        TokenizerConfig(language_weights={"fi": 0.0})


def test_what_fertility_is_measured_on_is_never_learnt(tmp_path: Path) -> None:
    config, run, manifest = make_languages(tmp_path)
    sample = plan_sample(config, run, manifest, "tokenizer", 10**9, learnt=True)
    assert set(sample.measured) == {"de", "fi"} and 0 < sample.measured["de"] < 0.2
    learnt = {item.document.id for item in sample.read(run, manifest)}
    everything = plan_sample(config, run, manifest, "all", 10**9)
    measured = {
        item.document.id
        for item in everything.read(run, manifest)
        if is_measured(config.seed, sample.measured, item.document.id, item.document.language)
    }
    assert 10 < len(measured) < 60
    assert not learnt & measured and len(learnt) + len(measured) == 550
