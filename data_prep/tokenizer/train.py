"""Train a byte-level BPE as BLOOM's on a sample of the kept documents.

Entries, in this order: `<unk>` `<s>` `</s>` `<pad>`, then `<|reserved_0|>`, `<|reserved_1|>` and so on, then the 256
bytes, then one entry for each merge. `</s>` ends a document. Text is not normalised in any way.

Source: Le Scao et al. 2022, arXiv:2211.05100, section 3.2.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from data_prep.config import DataConfig, TokenizerConfig
from data_prep.shards import Manifest, RunDirectory, Stage, committed_digest, load_manifest
from data_prep.tokenizer.encode import CHECK_FILE, ReferenceEncoder, check_encoders
from data_prep.tokenizer.encoded import TokenizerError
from data_prep.tokenizer.piece_encoder import PRE_TOKENIZER_PATTERN
from data_prep.tokenizer.sample import Sample, SampledDocument, plan_sample
from foundation.atomic_files import whole_file, write_json
from foundation.progress import Progress, format_seconds

VERSION = 2

UNKNOWN, BEGIN, END_OF_DOCUMENT, PAD = "<unk>", "<s>", "</s>", "<pad>"
CONTROL_ENTRIES = (UNKNOWN, BEGIN, END_OF_DOCUMENT, PAD)

_MINIMUM_FREQUENCY = 2
_LARGEST_PIECE_BYTES = 1_000_000
"""No more than this of a single document goes into the sample, so that one dump does not shape the vocabulary."""
_CHECK_BYTES = 4_000_000
"""Text that is encoded and decoded again, and that the encoders are compared on."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "report.json", CHECK_FILE)
_UNIT = "tokenizer"


def train_tokenizer(config: DataConfig, run: RunDirectory) -> None:
    """Write `tokenizer/`: the files that transformers loads, `report.json` and `encoder_check.json`.

    Raises:
        TokenizerError: too little text for the vocabulary, or a document that does not come back as it was.
        StaleOutputError: there is a tokenizer already, made from other documents or settings.
    """
    manifest = load_manifest(run)
    stage = tokenizer_stage(config, run, manifest)
    if stage.is_done(_UNIT):
        print("train-tokenizer: done already")
        return
    sample = plan_sample(config, run, manifest, "tokenizer", config.tokenizer.sample_bytes)
    folder = run.tokenizer
    folder.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    texts = _counted(sample.read(run, manifest), counts, sample.expected_bytes)
    start = time.monotonic()
    tokenizer = train_byte_level_bpe(texts, config.tokenizer)
    print(f"train-tokenizer: trained in {format_seconds(time.monotonic() - start)}")
    save(tokenizer, folder)

    check = plan_sample(config, run, manifest, "check", _CHECK_BYTES)
    report = check_round_trip(ReferenceEncoder(folder), check.read(run, manifest), check)
    report = {
        "vocabulary_size": tokenizer.get_vocab_size(with_added_tokens=True),
        "reserved_entries": config.tokenizer.reserved_entries,
        "sample": {
            source: {"documents": counts[f"{source}/documents"], "bytes": counts[f"{source}/bytes"]}
            for source in sample.kept_bytes
        },
        **report,
    }
    write_json(folder / "report.json", report)
    encoders = check_encoders(folder, lambda: (item.document.text for item in check.read(run, manifest)))
    _say(report, encoders)
    stage.commit(
        _UNIT,
        [folder / name for name in _TOKENIZER_FILES],
        {
            "vocabulary_size": report["vocabulary_size"],
            "sample_documents": sum(counts[f"{source}/documents"] for source in sample.kept_bytes),
            "sample_bytes": sum(counts[f"{source}/bytes"] for source in sample.kept_bytes),
        },
    )


def tokenizer_stage(config: DataConfig, run: RunDirectory, manifest: Manifest) -> Stage:
    weights = {source.name: source.weight for source in config.sources}
    return Stage(
        run,
        "train-tokenizer",
        VERSION,
        {**config.tokenizer.model_dump(mode="json"), "seed": config.seed, "weights": weights},
        inputs=committed_digest(run, "decide", manifest.shard_names),
    )


def reserved_entries(count: int) -> tuple[str, ...]:
    """The control entries and `count` reserved ones, in the order of their ids."""
    return (*CONTROL_ENTRIES, *(f"<|reserved_{i}|>" for i in range(count)))


def train_byte_level_bpe(texts: Iterator[str], settings: TokenizerConfig) -> Tokenizer:
    """Learn the merges. The same texts give the same tokenizer, whatever the number of threads.

    Raises:
        TokenizerError: the vocabulary cannot hold the entries that are always there, or cannot be filled.
    """
    reserved = reserved_entries(settings.reserved_entries)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    always = len(reserved) + len(alphabet)
    if settings.vocabulary_size < always:
        raise TokenizerError(
            f"tokenizer.vocabulary_size {settings.vocabulary_size} is too small: {len(reserved)} control and reserved "
            f"entries and {len(alphabet)} bytes take {always}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENIZER_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary_size,
        min_frequency=_MINIMUM_FREQUENCY,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in reserved],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_without_reserved(texts, reserved), trainer)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size < settings.vocabulary_size:
        reachable = size // 128 * 128
        raise TokenizerError(
            f"tokenizer.vocabulary_size {settings.vocabulary_size} cannot be filled: the sample has only "
            f"{size - always} pairs that occur {_MINIMUM_FREQUENCY} times, enough for {size} entries. "
            f"Give it more text, or set tokenizer.vocabulary_size={reachable}"
        )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the three files that `transformers.AutoTokenizer` loads."""
    with whole_file(folder / "tokenizer.json") as temporary:
        tokenizer.save(str(temporary))
    special = {
        "unk_token": UNKNOWN,
        "bos_token": BEGIN,
        "eos_token": END_OF_DOCUMENT,
        "pad_token": PAD,
    }
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **special,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "padding_side": "left",
        },
    )


def check_round_trip(encoder: ReferenceEncoder, documents: Iterator[SampledDocument], sample: Sample) -> dict[str, Any]:
    """Encode, decode and compare each document, and count bytes per token by source.

    Raises:
        TokenizerError: a document that does not come back as it was; its id is named.
    """
    byte_counts: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    checked: Counter[str] = Counter()
    with Progress("train-tokenizer: round trip", sample.expected_bytes, "bytes") as progress:
        for item in documents:
            text = item.document.text
            encoded = encoder.encode([text]).tokens[:-1]
            if encoder.decode(encoded) != text:
                raise TokenizerError(f"document {item.document.id} does not come back from its tokens as it was")
            if np.any(encoded == encoder.end_of_document):
                raise TokenizerError(f"document {item.document.id} holds an end-of-document token in its text")
            size = len(text.encode())
            byte_counts[item.source] += size
            tokens[item.source] += len(encoded)
            checked[item.source] += 1
            progress.advance(size)
    return {
        "bytes_per_token": {name: round(byte_counts[name] / max(1, tokens[name]), 4) for name in byte_counts},
        "round_trip": {
            "documents": sum(checked.values()),
            "bytes": sum(byte_counts.values()),
            "tokens": sum(tokens.values()),
            "failed": 0,
        },
    }


def _without_reserved(texts: Iterator[str], reserved: tuple[str, ...]) -> Iterator[str]:
    # The trainer gives a merge that spells the name of a reserved entry (`<s>` is common in HTML) that entry's id, and
    # every such text would become a control token. Text cut at those names cannot teach such a merge.
    names = re.compile("|".join(re.escape(name) for name in sorted(reserved, key=len, reverse=True)))
    for text in texts:
        yield from (piece for piece in names.split(text) if piece)


def _counted(documents: Iterator[SampledDocument], counts: Counter[str], expected_bytes: int) -> Iterator[str]:
    """The texts, cut to the largest piece, counted by source and shown as they go by."""
    with Progress("train-tokenizer: reading the sample", expected_bytes, "bytes") as progress:
        for item in documents:
            data = item.document.text.encode()
            piece = data[:_LARGEST_PIECE_BYTES].decode("utf-8", "ignore") if len(data) > _LARGEST_PIECE_BYTES else None
            counts[f"{item.source}/documents"] += 1
            counts[f"{item.source}/bytes"] += min(len(data), _LARGEST_PIECE_BYTES)
            progress.advance(len(data))
            yield item.document.text if piece is None else piece
    print("train-tokenizer: learning the merges; takes one to two times as long as the reading did")


def _say(report: dict[str, Any], encoders: dict[str, Any]) -> None:
    by_source = ", ".join(f"{source} {ratio:.2f}" for source, ratio in report["bytes_per_token"].items())
    print(f"train-tokenizer: {report['vocabulary_size']:,} entries; bytes per token: {by_source}")
    for name, result in encoders["compared"].items():
        if result["equal"]:
            print(f"train-tokenizer: {name} equals the reference on {result['documents']:,} documents and will encode")
        else:
            print(f"train-tokenizer: {name} will not encode: {result['difference']}")
    if encoders["used"] == encoders["reference"]:
        print(f"train-tokenizer: {encoders['reference']} will encode")
