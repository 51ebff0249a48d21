"""Report on a tokenizer: fertility by language compared with monolingual tokenizers, and round trips of all documents.

    tokenizer_report/report.json, report.png   the findings
    tokenizer_report/parts/                    counts of each shard
    tokenizer_report/languages/<code>/         a tokenizer of the same kind, trained on that language alone

Fertility is tokens per word, words by Unicode's word boundaries (Unicode Standard Annex 29); in scripts without spaces,
each character counts as a word, which does not affect the comparison. It is measured on documents that neither
tokenizer was trained on, see `sample.measured_shares`. A language is flagged when its fertility is more than 10 % worse
than that of its own tokenizer: Le Scao et al. 2022, arXiv:2211.05100, section 3.2, accept no more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import regex

from data_prep.config import DataConfig, TokenizerConfig, TokenizerKind
from data_prep.run.commit_records import Stage, committed_digest
from data_prep.run.directory import RunDirectory
from data_prep.run.executors import run_units
from data_prep.run.manifest import Manifest, load_manifest
from data_prep.tokenizer.encoding.encode import ReferenceEncoder, open_encoder
from data_prep.tokenizer.encoding.encoded import TokenizerError
from data_prep.tokenizer.encoding.token_bytes import TokenBytes
from data_prep.tokenizer.kept_documents import KeptDocument, id_fraction, read_kept
from data_prep.tokenizer.report_page import draw, print_tables
from data_prep.tokenizer.sample import is_measured, kept_bytes_of, measured_shares
from data_prep.tokenizer.train import learn
from foundation.atomic_files import whole_file, write_array, write_json

VERSION = 1

WORST_RATIO = 1.1
"""Largest acceptable ratio of fertilities, see the top of this file."""
_LEARNT_BYTES = 10_000_000
"""Largest number of bytes of a language that its monolingual tokenizer is trained on."""
_FEWEST_LEARNT_BYTES = 100_000
_FEWEST_MEASURED_WORDS = 1000
"""Least number of measured words for a meaningful comparison."""
_SHOWN = 20
_BATCH_DOCUMENTS = 64
_LANGUAGE_UNIT = "language-"
_WORD = regex.compile(r"(?w)\b\w")
"""Beginning of a word: a boundary by Annex 29, followed by a letter, digit or underscore."""


def count_words(text: str) -> int:
    """Count words by Unicode's word boundaries; punctuation and spaces do not count."""
    return len(_WORD.findall(text))


def report_tokenizer(config: DataConfig, run: RunDirectory) -> None:
    """Measure on every kept document, train a tokenizer for each language, write `tokenizer_report/`, print tables."""
    manifest = load_manifest(run)
    stage = report_stage(config, run, manifest)
    measured = measured_shares(kept_bytes_of(config, run, manifest))
    work = partial(measure_shard, stage=stage, seed=config.seed, measured=measured)
    run_units(work, manifest.shard_names, config.workers, "report-tokenizer: every document", stage)
    units = [_LANGUAGE_UNIT + language for language in sorted(measured)]
    own = partial(
        measure_own_tokenizer,
        stage=stage,
        shards=manifest.shard_names,
        seed=config.seed,
        measured=measured,
        settings=_own_settings(config, run),
    )
    run_units(own, units, config.workers, "report-tokenizer: a tokenizer for each language", stage)
    report = gather(config, run, manifest, sorted(measured))
    folder = run.tokenizer_report
    write_json(folder / "report.json", report)
    with whole_file(folder / "report.png") as temporary:
        temporary.write_bytes(draw(report))
    print_tables(report)
    print(f"full report: {folder / 'report.json'}, as a picture: {folder / 'report.png'}")


def report_stage(config: DataConfig, run: RunDirectory, manifest: Manifest) -> Stage:
    decided = committed_digest(run, "decide", manifest.shard_names)
    tokenizer = committed_digest(run, "train-tokenizer", ["tokenizer"])
    settings = {"own": _own_settings(config, run).model_dump(mode="json"), "seed": config.seed}
    return Stage(run, "report-tokenizer", VERSION, settings, inputs=f"{decided}+{tokenizer}")


def _own_settings(config: DataConfig, run: RunDirectory) -> TokenizerConfig:
    tokenizer = ReferenceEncoder(run.tokenizer)
    return own_settings(tokenizer.kind, tokenizer.vocabulary_size, config.tokenizer.monolingual_vocabulary_size)


def own_settings(kind: TokenizerKind, vocabulary_size: int, wanted: int | None) -> TokenizerConfig:
    """Return the settings of monolingual tokenizers: of the same kind, without reserved entries, smaller by default."""
    quarter = max(512, vocabulary_size // 4 // 128 * 128)
    return TokenizerConfig(kind=kind, vocabulary_size=wanted or quarter, reserved_entries=0)


def _part(run: RunDirectory, shard: str) -> tuple[Path, Path]:
    return run.tokenizer_report / "parts" / f"{shard}.json", run.tokenizer_report / "parts" / f"{shard}.used.npy"


def measure_shard(name: str, stage: Stage, seed: int, measured: Mapping[str, float]) -> None:
    """Count over every kept document of a shard, by language; words only where fertility is measured."""
    run = stage.run
    reference = ReferenceEncoder(run.tokenizer)
    encoder, table = open_encoder(reference), TokenBytes.of(reference)
    counts: dict[str, Counter[str]] = {}
    used = np.zeros(encoder.vocabulary_size, np.int64)
    inexact: list[str] = []
    for batch in _batches(read_kept(run, name)):
        texts = [document.text for document in batch]
        encoded = encoder.encode(texts)
        differing = table.inexact(encoded, texts)
        used += np.bincount(encoded.tokens, minlength=len(used))
        fallback = np.add.reduceat(
            table.is_fallback[encoded.tokens].astype(np.int64), np.cumsum(encoded.sizes) - encoded.sizes
        )
        for i, document in enumerate(batch):
            size, tokens = len(document.text.encode()), int(encoded.sizes[i]) - 1
            count = counts.setdefault(document.language, Counter())
            count.update(documents=1, bytes=size, tokens=tokens, fallback_tokens=int(fallback[i]))
            count["inexact"] += int(differing[i])
            if is_measured(seed, measured, document.id, document.language):
                words = count_words(document.text)
                count.update(measured_documents=1, measured_bytes=size, measured_tokens=tokens, measured_words=words)
            if differing[i] and len(inexact) < _SHOWN:
                inexact.append(document.id)
    part, used_path = _part(run, name)
    digests: dict[Path, str] = {}
    languages = {language: dict(count) for language, count in counts.items()}
    write_json(part, {"languages": languages, "inexact": inexact}, stage.new_file(digests))
    write_array(used_path, used, stage.new_file(digests))
    documents = sum(count["documents"] for count in counts.values())
    stage.commit(name, [part, used_path], {"documents": documents}, digests=digests)


def measure_own_tokenizer(
    unit: str,
    stage: Stage,
    shards: tuple[str, ...],
    seed: int,
    measured: Mapping[str, float],
    settings: TokenizerConfig,
) -> None:
    """Train a tokenizer on one language, and count its tokens on the documents that fertility is measured on."""
    run, language = stage.run, unit.removeprefix(_LANGUAGE_UNIT)
    parts = {shard: json.loads(_part(run, shard)[0].read_text())["languages"].get(language, {}) for shard in shards}
    total = sum((Counter(count) for count in parts.values()), Counter())
    learnable = total["bytes"] - total["measured_bytes"]
    holding = [shard for shard, count in parts.items() if count]
    folder = run.tokenizer_report / "languages" / language
    result = folder / "result.json"
    found: dict[str, Any]
    if learnable < _FEWEST_LEARNT_BYTES or total["measured_words"] < _FEWEST_MEASURED_WORDS:
        found = {
            "not_compared": f"only {learnable:,} bytes to learn from and {total['measured_words']:,} words to measure"
        }
    else:
        share = _LEARNT_BYTES / learnable

        def is_learnt(identity: str, spoken: str) -> bool:
            return (
                spoken == language
                and not is_measured(seed, measured, identity, spoken)
                and id_fraction(seed, "own tokenizer", identity) < share
            )

        def is_held_to(identity: str, spoken: str) -> bool:
            return spoken == language and is_measured(seed, measured, identity, spoken)

        try:
            texts = (document.text for shard in holding for document in read_kept(run, shard, is_learnt))
            learn(texts, settings, folder, must_fill=False)
            encoder = ReferenceEncoder(folder)
            tokens = sum(
                len(encoder.encode([document.text]).tokens) - 1
                for shard in holding
                for document in read_kept(run, shard, is_held_to)
            )
            found = {"vocabulary_size": encoder.vocabulary_size, "tokens": tokens}
        except TokenizerError as error:
            found = {"not_compared": str(error)}
    digests: dict[Path, str] = {}
    write_json(result, found, stage.new_file(digests))
    stage.commit(unit, [result], {"bytes": total["bytes"]}, digests=digests)


def gather(config: DataConfig, run: RunDirectory, manifest: Manifest, languages: list[str]) -> dict[str, Any]:
    """Make the report from the counts of the units."""
    reference = ReferenceEncoder(run.tokenizer)
    table = TokenBytes.of(reference)
    by_language: dict[str, Counter[str]] = {language: Counter() for language in languages}
    by_source: dict[str, Counter[str]] = {}
    used = np.zeros(len(table.texts), np.int64)
    inexact: list[str] = []
    for shard in manifest.shards:
        part, used_path = _part(run, shard.name)
        content = json.loads(part.read_text())
        used += np.load(used_path)
        inexact += content["inexact"]
        for language, count in content["languages"].items():
            by_language[language].update(count)
            by_source.setdefault(shard.source, Counter()).update(count)
    total = sum(by_source.values(), Counter())
    stands_for_text = np.array([text is not None for text in table.texts])
    never = np.flatnonzero(stands_for_text & (used == 0))
    longest = sorted(
        (i for i, text in enumerate(table.texts) if text is not None), key=lambda i: (-len(table.texts[i] or b""), i)
    )
    return {
        "kind": reference.kind,
        "vocabulary_size": len(table.texts),
        "round_trip": {
            "documents": total["documents"],
            "bytes": total["bytes"],
            "tokens": total["tokens"],
            "inexact": total["inexact"],
            "inexact_documents": inexact[:_SHOWN],
        },
        "fertility": {
            language: fertility(count, _own(run, language))
            for language, count in sorted(by_language.items(), key=lambda item: -item[1]["bytes"])
        },
        "bytes_per_token": {
            source: round(count["bytes"] / max(1, count["tokens"]), 4) for source, count in by_source.items()
        },
        "byte_fallback": {
            "share_of_tokens": _share(total["fallback_tokens"], total["tokens"]),
            "by_language": {
                language: _share(count["fallback_tokens"], count["tokens"]) for language, count in by_language.items()
            },
        },
        "unused_entries": {
            "entries": len(never),
            "share": _share(len(never), int(stands_for_text.sum())),
            "examples": [{"id": int(i), "text": _shown(table.texts[i])} for i in never[:_SHOWN]],
        },
        "longest_tokens": [
            {"id": i, "bytes": len(table.texts[i] or b""), "text": _shown(table.texts[i]), "used": int(used[i])}
            for i in longest[:_SHOWN]
        ],
    }


def fertility(count: Mapping[str, int], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the findings on one language.

    Args:
        count: sum of the counts of `measure_shard`.
        own: result of `measure_own_tokenizer`.
    """
    words = count.get("measured_words", 0)
    result: dict[str, Any] = {
        "bytes": count.get("bytes", 0),
        "documents": count.get("documents", 0),
        "measured_words": words,
        "tokens_per_word": round(count.get("measured_tokens", 0) / words, 4) if words else None,
        "flagged": False,
    }
    if "not_compared" in own:
        return {**result, "not_compared": own["not_compared"]}
    ratio = count["measured_tokens"] / own["tokens"]
    return {
        **result,
        "own_vocabulary_size": own["vocabulary_size"],
        "own_tokens_per_word": round(own["tokens"] / words, 4),
        "ratio": round(ratio, 4),
        "flagged": ratio > WORST_RATIO,
    }


def _own(run: RunDirectory, language: str) -> dict[str, Any]:
    path = run.tokenizer_report / "languages" / language / "result.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _shown(text: bytes | None) -> str:
    return (text or b"").decode("utf-8", "backslashreplace")


def _batches(documents: Iterator[KeptDocument]) -> Iterator[list[KeptDocument]]:
    batch: list[KeptDocument] = []
    for document in documents:
        batch.append(document)
        if len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch = []
    if batch:
        yield batch
