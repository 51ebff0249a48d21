"""The train-tokenizer stage: trains a tokenizer on a sample of the kept documents, or adopts an existing one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from data_prep.compile_kernels import ENCODE, compile_kernels
from data_prep.config import DataConfig, TokenizerConfig
from data_prep.run.arrivals import forget_changed
from data_prep.run.commit_records import Stage, committed_digest
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import Manifest, load_manifest
from data_prep.tokenizer import byte_level, sentence_piece
from data_prep.tokenizer.adopt import adopt_tokenizer, model_vocabulary_size, source_digests
from data_prep.tokenizer.encoding.encode import CHECK_FILE, ReferenceEncoder, check_encoders
from data_prep.tokenizer.encoding.encoded import TokenizerError
from data_prep.tokenizer.encoding.token_bytes import TokenBytes
from data_prep.tokenizer.sample import SampledDocument, plan_sample
from foundation.atomic_files import write_json
from foundation.progress import Progress, format_seconds

VERSION = 5

_LARGEST_PIECE_BYTES = 1_000_000
"""Limit of a single document in the sample, so that one dump does not shape the vocabulary."""
_CHECK_BYTES = 4_000_000
"""Bytes of text that are encoded and decoded, and on which encoders are compared."""

_FILES = {"byte_level_bpe": byte_level.FILES, "sentencepiece_bpe": sentence_piece.FILES}
_UNIT = "tokenizer"


def train_tokenizer(config: DataConfig, run: RunDirectory) -> None:
    """Write `tokenizer/`: the files that transformers loads, `report.json` and `encoder_check.json`.

    Raises:
        TokenizerError: there is too little text for the vocabulary, the tokenizer cannot be used for token files, or a
            document does not decode to its text.
        StaleOutputError: the tokenizer on disk is from other documents or settings.
    """
    manifest = load_manifest(run)
    stage = tokenizer_stage(config, run, manifest)
    forget_changed(stage, manifest)
    if stage.is_done(_UNIT):
        print("train-tokenizer: already done")
        return
    settings = config.tokenizer
    folder = run.tokenizer
    folder.mkdir(parents=True, exist_ok=True)
    origin: dict[str, Any]
    if settings.path is not None:
        files = adopt_tokenizer(settings.path, folder)
        origin = {"from": str(settings.path)}
        print(f"train-tokenizer: nothing is trained; the tokenizer is that of {settings.path}")
    else:
        origin = {"reserved_entries": settings.reserved, "sample": _learn_from_sample(config, run, manifest)}
        files = [folder / name for name in _FILES[settings.kind]]

    check = plan_sample(config, run, manifest, "check", _CHECK_BYTES)
    reference = ReferenceEncoder(folder)
    with Progress("train-tokenizer: round trip", check.expected_bytes, "bytes") as progress:
        report = check_round_trip(reference, check.read(run, manifest), progress)
    report = {
        "kind": reference.kind,
        "vocabulary_size": reference.vocabulary_size,
        "model_vocabulary_size": model_vocabulary_size(settings, reference),
        **origin,
        **report,
    }
    write_json(folder / "report.json", report)
    compile_kernels(ENCODE)
    encoders = check_encoders(
        folder,
        lambda: (item.document.text for item in check.read(run, manifest)),
        forms_must_agree=settings.path is None,
    )
    _say(report, encoders)
    stage.commit(
        _UNIT,
        [*files, folder / "report.json", folder / CHECK_FILE],
        {"vocabulary_size": report["vocabulary_size"]},
    )


def _learn_from_sample(config: DataConfig, run: RunDirectory, manifest: Manifest) -> dict[str, Any]:
    """Train and write a tokenizer; return what it was trained on, by source and by language."""
    sample = plan_sample(config, run, manifest, "tokenizer", config.tokenizer.sample_bytes, learnt=True)
    counts: Counter[str] = Counter()
    texts = _counted(sample.read(run, manifest), counts, sample.expected_bytes)
    start = time.monotonic()
    learn(texts, config.tokenizer, run.tokenizer)
    print(f"train-tokenizer: trained in {format_seconds(time.monotonic() - start)}")
    return {
        kind: {
            name: {"documents": counts[f"{kind}/{name}/documents"], "bytes": counts[f"{kind}/{name}/bytes"]}
            for name in names
        }
        for kind, names in (("by_source", sample.sources), ("by_language", sample.languages))
    }


def tokenizer_stage(config: DataConfig, run: RunDirectory, manifest: Manifest) -> Stage:
    weights = {source.name: source.weight for source in config.sources if not source.arrival}
    settings: dict[str, Any]
    if config.tokenizer.path is not None:
        settings = {"path": source_digests(config.tokenizer.path)}
        settings["model_vocabulary_size"] = config.tokenizer.model_vocabulary_size
    else:
        apart = {"path", "model_vocabulary_size", "monolingual_vocabulary_size"}
        if config.tokenizer.character_coverage == type(config.tokenizer).model_fields["character_coverage"].default:
            apart.add("character_coverage")  # tokenizers from before there was this setting have its default
        settings = config.tokenizer.model_dump(mode="json", exclude=apart)
    return Stage(
        run,
        "train-tokenizer",
        VERSION,
        {**settings, "seed": config.seed, "weights": weights},
        inputs=committed_digest(run, "decide", manifest.shard_names),
    )


def learn(texts: Iterable[str], settings: TokenizerConfig, folder: Path, *, must_fill: bool = True) -> None:
    """Train a tokenizer of the configured kind and write its files.

    Raises:
        TokenizerError: the vocabulary is too small for the fixed entries, or, with `must_fill`, cannot be filled.
    """
    if settings.kind == "byte_level_bpe":
        byte_level.save_byte_level_bpe(byte_level.train_byte_level_bpe(texts, settings, must_fill=must_fill), folder)
    else:
        sentence_piece.save_sentencepiece_bpe(
            sentence_piece.train_sentencepiece_bpe(texts, settings, must_fill=must_fill), folder
        )


def check_round_trip(
    encoder: ReferenceEncoder, documents: Iterator[SampledDocument], progress: Progress
) -> dict[str, Any]:
    """Encode, decode and compare each document, and count bytes per token by source.

    Raises:
        TokenizerError: a document does not decode to its text, although the tokenizer does not rewrite it by
            definition, as SentencePiece's format rewrites U+2581; names its id.
    """
    byte_counts: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    checked: Counter[str] = Counter()
    inexact: list[str] = []
    table = TokenBytes.of(encoder)
    for item in documents:
        text = item.document.text
        encoded = encoder.encode([text])
        content = encoded.tokens[:-1]
        if encoder.decode(content) != text or table.inexact(encoded, [text])[0]:
            if not (table.may_differ(text) and table.is_rewritten(content, text)):
                raise TokenizerError(f"document {item.document.id} does not decode to its original text")
            inexact.append(item.document.id)
        if np.any(content == encoder.end_of_document):
            raise TokenizerError(f"document {item.document.id} has an end-of-document token in its text")
        size = len(text.encode())
        byte_counts[item.source] += size
        tokens[item.source] += len(content)
        checked[item.source] += 1
        progress.advance(size)
    return {
        "bytes_per_token": {name: round(byte_counts[name] / max(1, tokens[name]), 4) for name in byte_counts},
        "round_trip": {
            "documents": sum(checked.values()),
            "bytes": sum(byte_counts.values()),
            "tokens": sum(tokens.values()),
            "rewriting": table.rewriting,
            "inexact": inexact,
        },
    }


def _counted(documents: Iterator[SampledDocument], counts: Counter[str], expected_bytes: int) -> Iterator[str]:
    """Yield the texts, cut to the largest piece; count them by source and show progress."""
    with Progress("train-tokenizer: reading the sample", expected_bytes, "bytes") as progress:
        for item in documents:
            data = item.document.text.encode()
            piece = data[:_LARGEST_PIECE_BYTES].decode("utf-8", "ignore") if len(data) > _LARGEST_PIECE_BYTES else None
            size = min(len(data), _LARGEST_PIECE_BYTES)
            for place in ("", f"by_source/{item.source}/", f"by_language/{item.document.language}/"):
                counts[f"{place}documents"] += 1
                counts[f"{place}bytes"] += size
            progress.advance(len(data))
            yield item.document.text if piece is None else piece
    print("train-tokenizer: learning the merges; takes one to two times as long as reading")


def _say(report: dict[str, Any], encoders: dict[str, Any]) -> None:
    by_source = ", ".join(f"{source} {ratio:.2f}" for source, ratio in report["bytes_per_token"].items())
    print(f"train-tokenizer: {report['vocabulary_size']:,} entries; bytes per token: {by_source}")
    if inexact := report["round_trip"]["inexact"]:
        print(
            f"train-tokenizer: the tokenizer rewrites {len(inexact)} of {report['round_trip']['documents']:,} "
            f"documents ({report['round_trip']['rewriting']}); the first is {inexact[0]}"
        )
    for name, result in encoders["compared"].items():
        if result["equal"]:
            print(f"train-tokenizer: {name} equals the reference on {result['documents']:,} documents")
        else:
            print(f"train-tokenizer: {name} will not encode: {shorten(result['difference'], 200)}")
    print(f"train-tokenizer: {encoders['used']} will encode")
