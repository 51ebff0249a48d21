"""The tokenize stage: encode each shard, then collect each source in a global random order.

    tokens/<source>.bin|idx           training data
    tokens/<source>.heldout.bin|idx   held-out documents, chosen by a hash of their id
    tokens/<source>.loss_mask         only if the loss excludes parts of documents, see `format`
    tokens/<source>.origins.npy       id of each document, see `origins`
    tokens/<source>.withdrawn.json   documents that were taken out, see `data_prep/withdrawal`
    tokens/<source>.left_out.jsonl    conversations without tokens, and rounds that were too long, with the reason
    tokens/chat_template.yaml         the template of conversations
    tokens/chat_template.jinja        the same for transformers
    tokens/generation_config.json     the tokens that end an answer, for transformers
    tokens/mixture.yaml               counts, weights, checksums
    tokens/mixture.arrival-0.yaml     the same of the sources that arrived first, if more have arrived since
    tokens/encoded/                   encoded shards, until their source is collected

Shards are encoded in parallel; then documents are copied through memory maps in the order of a keyed permutation.
Neither step needs more than a few megabytes for tokens, and the bytes are the same for any number of workers. Each
document is decoded as soon as it is encoded, and compared byte by byte.

Conversations are written by a template, see `data_prep/conversations`, and may be packed: `documents` counts packs.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from data_prep.compile_kernels import ENCODE, compile_kernels
from data_prep.config import DataConfig, SourceConfig
from data_prep.conversations.encoding import (
    LEFT_OUT,
    ROUNDS_LEFT_OUT,
    ChatSettings,
    ConversationEncoder,
    control_names,
    end_tokens,
    padding_token,
)
from data_prep.conversations.jinja import chat_template
from data_prep.conversations.templates import load_template
from data_prep.gathering import Encodings
from data_prep.indexed_dataset.format import bin_path
from data_prep.indexed_dataset.origins import PADDING, pack, write_origins
from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.indexed_dataset.withdrawn import withdrawn_path
from data_prep.indexed_dataset.writer import IndexedDatasetWriter
from data_prep.run.arrivals import forget_changed
from data_prep.run.commit_records import Record, Stage, committed_digest
from data_prep.run.directory import RunDirectory
from data_prep.run.executors import run_units
from data_prep.run.manifest import Manifest, load_manifest
from data_prep.tokenizer.adopt import model_vocabulary_size
from data_prep.tokenizer.encoding.encode import ReferenceEncoder, open_encoder
from data_prep.tokenizer.encoding.encoded import Encoded, Encoder, TokenizerError
from data_prep.tokenizer.encoding.token_bytes import TokenBytes
from data_prep.tokenizer.kept_documents import KeptBatch, KeptShard, id_fraction, mixture_weights
from data_prep.withdrawal.erase import erase_listed
from data_prep.withdrawal.listed import read_list
from foundation.atomic_files import write_array, write_json, write_text
from foundation.configuration import write_yaml
from foundation.progress import summary_table

VERSION = 3


def tokenize(config: DataConfig, run: RunDirectory) -> None:
    """Write `tokens/`. A source without a kept document is left out and reported.

    Raises:
        ValueError: no source has anything to train on; the tokenizer has no end-of-document token; stale outputs.
    """
    manifest = load_manifest(run)
    stage = tokenize_stage(config, run, manifest)
    forget_changed(stage, manifest)
    shards: dict[str, list[str]] = {source.name: [] for source in config.sources}
    for shard in manifest.shards:
        shards[shard.source].append(shard.name)
    unfinished = [source for source in shards if not stage.is_done(source)]
    to_encode = [shard for source in unfinished for shard in shards[source]]
    chat = chat_settings(config)
    chats = {source.name: chat if source.is_conversations else None for source in config.sources}
    if to_encode:
        compile_kernels(ENCODE)  # cold where the tokenizer was trained on another machine
        share = config.tokens.heldout_share
        encode = partial(encode_shard, stage=stage, seed=config.seed, heldout_share=share, chats=chats)
        run_units(encode, to_encode, config.workers, "tokenize: encoding", stage)
        _refuse_all_heldout(stage, shards, unfinished, share)
        _say_inexact(stage, to_encode)
        _say_conversations(stage, {source: shards[source] for source in unfinished if chats[source]})
    packs = {source.name: config.tokens.pack for source in config.sources if source.is_conversations}
    gather = partial(gather_source, stage=stage, shards=shards, seed=config.seed, packs=packs)
    run_units(gather, list(shards), config.workers, "tokenize: shuffling", stage)
    _say_packs(stage, {source: length for source, length in packs.items() if length and source in unfinished})
    shutil.rmtree(run.tokens / "encoded", ignore_errors=True)
    erased = erase_listed(stage, read_list(config.withdrawn, manifest, run))
    if erased:
        print(f"tokenize: {erased:,} documents on the list {config.withdrawn} are taken out of the token files")
    write_mixture(config, run, stage.records())


def chat_settings(config: DataConfig) -> ChatSettings | None:
    """Return how conversations become tokens; None if no source has any.

    Raises:
        ConfigError: the template is missing or faulty.
    """
    tokens = config.tokens
    if tokens.template is None:
        return None
    return ChatSettings(tokens.template, load_template(tokens.template), tokens.learn, tokens.pack, tokens.long_round)


def _refuse_all_heldout(stage: Stage, shards: Mapping[str, list[str]], sources: Sequence[str], share: float) -> None:
    records = stage.records()
    for source in sources:
        documents = sum(records[shard].counts["documents"] for shard in shards[source])
        heldout = sum(records[shard].counts["heldout_documents"] for shard in shards[source])
        if heldout and not documents:
            raise ValueError(
                f"source {source}: all of its {heldout} kept documents are held out, and "
                f"none is left to train on; lower tokens.heldout_share {share}, or join it with another source"
            )


def _say_inexact(stage: Stage, shards: Sequence[str]) -> None:
    records = stage.records()
    documents = sum(records[shard].counts["documents"] + records[shard].counts["heldout_documents"] for shard in shards)
    inexact = sum(records[shard].counts["inexact"] for shard in shards)
    if inexact:
        rewriting = TokenBytes.of(ReferenceEncoder(stage.run.tokenizer)).rewriting
        exception = f", except {inexact:,} that the tokenizer rewrites: {rewriting}"
    else:
        exception = ""
    print(f"tokenize: all {documents:,} documents decode to their original bytes{exception}")


def _say_conversations(stage: Stage, shards: Mapping[str, Sequence[str]]) -> None:
    """Report what became of conversations."""
    records = stage.records()
    for source, names in shards.items():
        counts: Counter[str] = Counter()
        for name in names:
            counts.update(records[name].counts)
        parts = counts["documents"] + counts["heldout_documents"]
        print(f"tokenize: source {source}: {counts['conversations']:,} conversations are {parts:,} sequences")
        for key in sorted(counts):
            if key.startswith((LEFT_OUT, ROUNDS_LEFT_OUT)):
                what, reason = key.split(":")
                print(f"  {what.replace('_', ' ')}: {counts[key]:,} {reason}, see tokens/{source}.left_out.jsonl")
        if counts["questions_cut"]:
            print(f"  {counts['questions_cut']:,} questions are cut from the left")
        if counts["cuts"]:
            print(
                f"  {counts['merged']:,} of {counts['cuts']:,} answers begin or end where the tokenizer would have "
                "merged with the text beside them; their tokens differ from those of the whole text"
            )


def _say_packs(stage: Stage, lengths: Mapping[str, int]) -> None:
    """Report the share of the tokens of packs that is not padding.

    Args:
        lengths: by source, tokens of a pack.
    """
    records = stage.records()
    for source, length in lengths.items():
        counts = Counter(records[source].counts)
        packs, tokens, padding = (
            counts[what] + counts[_key(what, is_heldout=True)] for what in ("documents", "tokens", "padding")
        )
        if packs:
            print(
                f"tokenize: source {source}: {packs:,} packs of {length:,} tokens are {1 - padding / tokens:.2%} full"
            )


def tokenize_stage(config: DataConfig, run: RunDirectory, manifest: Manifest) -> Stage:
    decided = committed_digest(run, "decide", manifest.shard_names)
    tokenizer = committed_digest(run, "train-tokenizer", ["tokenizer"])
    settings: dict[str, Any] = {"heldout_share": config.tokens.heldout_share, "seed": config.seed}
    chat = chat_settings(config)
    if chat is not None:
        settings["chat"] = {**asdict(chat), "template": chat.template.model_dump()}
    return Stage(run, "tokenize", VERSION, settings, inputs=f"{decided}+{tokenizer}")


# ---------------------------------------------------------------------------------------------------------------------
# encode a shard


def encode_shard(
    name: str,
    stage: Stage,
    seed: int,
    heldout_share: float,
    chats: Mapping[str, ChatSettings | None] = MappingProxyType({}),
) -> None:
    """Encode the kept documents of a shard, in its order, and mark held-out ones.

    Args:
        chats: by source, how its conversations become tokens; None, or left out, for sources of other kinds.

    Raises:
        TokenizerError: a document does not decode to its original text.
    """
    run = stage.run
    prefix, flags_path, left_out_path = _encoded(run, name), _flags(run, name), _left_out(run, name)
    encoder, table = _opened(run.tokenizer, stage.inputs)
    chat = chats.get(name.rpartition("-")[0])
    kept = KeptShard(run, name, with_turns=chat is not None)
    encode = _plain_encoding(encoder, table, kept) if chat is None else _chat_encoding(encoder, table, run, chat)
    new_file = stage.new_file()
    flags: list[bool] = []
    identities: list[str] = []
    left_out: list[dict[str, Any]] = []
    counts: Counter[str] = Counter(bytes=0, inexact=0)
    with ExitStack() as stack:
        writer: IndexedDatasetWriter | None = None
        for batch in kept.batches():
            encoded = encode(batch)
            counts.update(encoded.counts)
            counts["bytes"] += int(batch.texts.sizes.sum())
            left_out += encoded.left_out
            if not len(encoded.sizes):
                continue
            if writer is None:
                writer = IndexedDatasetWriter(
                    prefix,
                    encoder.vocabulary_size,
                    with_loss_mask=chat is not None or kept.has_no_loss,
                    with_digests=False,
                    keep_first=stage.keeps_first,
                )
                stack.enter_context(writer)
            writer.add_documents(encoded.tokens, encoded.sizes, encoded.mask)
            named = [batch.identities[row] for row in encoded.rows.tolist()]
            flags += [id_fraction(seed, "heldout", identity) < heldout_share for identity in named]
            identities += named
    heldout = sum(flags)
    counts.update(documents=len(flags) - heldout, heldout_documents=heldout)
    written: list[Path] = []
    if left_out:
        write_text(left_out_path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in left_out), new_file)
        written.append(left_out_path)
    if writer is not None:
        write_array(flags_path, np.array(flags), new_file)
        origins = write_origins(prefix, pack(identities), new_file)
        written += [*writer.paths, flags_path, origins]
    stage.commit(name, [], counts, scratch=written)


@dataclass(frozen=True)
class _EncodedBatch:
    """Sequences of a batch; `rows`: index in the batch of the document of each; `mask` None: the loss counts all."""

    tokens: npt.NDArray[np.uint32]
    sizes: npt.NDArray[np.int64]
    mask: npt.NDArray[np.bool_] | None
    rows: npt.NDArray[np.int64]
    counts: Mapping[str, int]
    left_out: Sequence[dict[str, Any]] = ()


def _plain_encoding(encoder: Encoder, table: TokenBytes, kept: KeptShard) -> Callable[[KeptBatch], _EncodedBatch]:
    """Return the function that encodes texts: each is a sequence."""

    def encode(batch: KeptBatch) -> _EncodedBatch:
        encoded = encoder.encode(batch.texts)
        counts = {"inexact": _count_inexact(table, encoded, batch)}
        mask = table.loss_mask(encoded, batch.no_loss) if kept.has_no_loss else None
        return _EncodedBatch(encoded.tokens, encoded.sizes, mask, np.arange(len(encoded.sizes)), counts)

    return encode


def _chat_encoding(
    encoder: Encoder, table: TokenBytes, run: RunDirectory, chat: ChatSettings
) -> Callable[[KeptBatch], _EncodedBatch]:
    """Return the function that encodes conversations by a template: each is a sequence, several, or left out."""
    conversations = ConversationEncoder(chat, ReferenceEncoder(run.tokenizer), encoder, table)

    def encode(batch: KeptBatch) -> _EncodedBatch:
        encoded = conversations.encode(batch.turns, batch.identities)
        counts = Counter(
            conversations=len(batch.turns),
            inexact=encoded.rewritten,
            cuts=encoded.cuts,
            merged=encoded.merged,
            questions_cut=encoded.questions_cut,
        )
        left_out = []
        for one in encoded.left_out:
            counts[(LEFT_OUT if one.is_whole else ROUNDS_LEFT_OUT) + one.reason] += 1
            identity = batch.identities[one.row]
            left_out.append({"id": identity, "reason": one.reason, "whole": one.is_whole, "detail": one.detail})
        return _EncodedBatch(encoded.tokens, encoded.sizes, encoded.mask, encoded.rows, counts, left_out)

    return encode


@lru_cache(maxsize=1)
def _opened(folder: Path, inputs: str) -> tuple[Encoder, TokenBytes]:
    # once per process: building tables takes as long as encoding some megabytes of text, and pieces stay cached
    reference = ReferenceEncoder(folder)
    opened = open_encoder(reference), TokenBytes.of(reference)
    gc.freeze()  # otherwise garbage collection traverses the vocabulary repeatedly, a tenth of the time
    return opened


def _count_inexact(table: TokenBytes, encoded: Encoded, batch: KeptBatch) -> int:
    """Count documents that the tokenizer rewrites, such as U+2581 as a space; all others must be exact."""
    differing = np.flatnonzero(table.inexact(encoded, batch.texts)).tolist()
    ends = np.cumsum(encoded.sizes)
    for i in differing:
        tokens = encoded.tokens[ends[i] - encoded.sizes[i] : ends[i] - 1]
        if not (table.may_differ(batch.texts[i]) and table.is_rewritten(tokens, batch.texts[i])):
            raise TokenizerError(
                f"document {batch.identities[i]} does not decode to its original text: the encoder is "
                "faulty; `--restart train-tokenizer` checks it again"
            )
        if batch.no_loss[i]:
            raise TokenizerError(
                f"document {batch.identities[i]} has `no_loss`, and this tokenizer rewrites its text "
                f"({table.rewriting}), so that the ranges cannot be mapped: give the text as the tokenizer writes it"
            )
    return len(differing)


# ---------------------------------------------------------------------------------------------------------------------
# gather a source


def gather_source(
    source: str, stage: Stage, shards: dict[str, list[str]], seed: int, packs: Mapping[str, int | None]
) -> None:
    """Copy the documents of a source into its two files, in the order of a permutation keyed by seed and source.

    Args:
        packs: by source of conversations, tokens of a pack; None: they are not packed.
    """
    run = stage.run
    names = [name for name in shards[source] if bin_path(_encoded(run, name)).is_file()]
    counts = {_key(what, is_heldout): 0 for what in ("documents", "tokens") for is_heldout in (False, True)}
    if source in packs:
        counts |= _conversation_counts(stage, shards[source])
    left_out = _write_left_out(source, stage, shards[source])
    if not names:
        stage.commit(source, left_out, counts)
        return
    length = packs.get(source)
    reference = ReferenceEncoder(run.tokenizer)
    for is_heldout in (False, True):
        withdrawn_path(_prefix(run, source, is_heldout)).unlink(missing_ok=True)  # of other token files
    encoded = Encodings.open([_encoded(run, name) for name in names], [_flags(run, name) for name in names])
    gathered: dict[bool, list[npt.NDArray[np.int64]]] = {False: [], True: []}
    writers: dict[bool, IndexedDatasetWriter] = {}
    with ExitStack() as stack:
        for is_heldout in encoded.splits:
            writer = IndexedDatasetWriter(
                _prefix(run, source, is_heldout),
                reference.vocabulary_size,
                with_loss_mask=encoded.has_loss_mask,
                keep_first=stage.keeps_first,
            )
            writers[is_heldout] = stack.enter_context(writer)
        key = f"{seed}/documents/{source}"
        padding = 0 if length is None else padding_token(reference)
        for part in encoded.shuffled(key) if length is None else encoded.packed(key, length, padding):
            writer = writers[part.is_heldout]
            mask = part.loss_mask if writer.with_loss_mask else None
            writer.add_documents(part.tokens, part.sizes, mask, part.groups)
            gathered[part.is_heldout].append(part.origins)
    digests: dict[Path, str] = {}
    outputs: list[Path] = []
    for is_heldout, writer in writers.items():
        IndexedDataset(writer.prefix).check_index()
        digests |= writer.digests
        origins = np.concatenate(gathered[is_heldout])
        outputs.append(write_origins(writer.prefix, origins, stage.new_file(digests)))
        counts[_key("documents", is_heldout)] = writer.documents
        counts[_key("tokens", is_heldout)] = writer.tokens
        if length is not None:
            counts[_key("sequences", is_heldout)] = int(np.count_nonzero(origins != PADDING))
            sizes = IndexedDataset(writer.prefix).sequence_sizes
            counts[_key("padding", is_heldout)] = int(sizes[origins == PADDING].sum())
    stage.commit(source, [*digests, *outputs, *left_out], counts, digests=digests)


def _conversation_counts(stage: Stage, shards: Sequence[str]) -> dict[str, int]:
    """Sum what became of a source's conversations."""
    records = stage.records()
    total: Counter[str] = Counter()
    for shard in shards:
        total.update(records[shard].counts)
    kinds = (LEFT_OUT, ROUNDS_LEFT_OUT)
    return {key: count for key, count in total.items() if key == "conversations" or key.startswith(kinds)}


def _write_left_out(source: str, stage: Stage, shards: Sequence[str]) -> list[Path]:
    """Join the lists of conversations that are left out."""
    parts = [path for shard in shards if (path := _left_out(stage.run, shard)).is_file()]
    if not parts:
        return []
    path = stage.run.tokens / f"{source}.left_out.jsonl"
    write_text(path, "".join(part.read_text(encoding="utf-8") for part in parts), stage.new_file())
    return [path]


# ---------------------------------------------------------------------------------------------------------------------
# mixture


def write_mixture(config: DataConfig, run: RunDirectory, records: Mapping[str, Record]) -> None:
    """Write `mixture.yaml` from the records of the sources, and what it was before each arrival.

    Raises:
        ValueError: no source has a document to train on.
    """
    given = [source for source in config.sources if records[source.name].counts["documents"]]
    for source in config.sources:
        if source not in given:
            print(
                f"tokenize: source {source.name} is left out of the mixture: not one of its documents is kept; "
                "see the ledger for the reasons",
                file=sys.stderr,
            )
    if not given:
        raise ValueError(
            f"{run.root}: no source has a kept document, so there is nothing to train on; "
            "see `altiplano data ledger` for the reasons"
        )
    for arrival in sorted({source.arrival for source in given}):
        arrived = [source for source in given if source.arrival <= arrival]
        mixture = _mixture(config, run, records, arrived)
        is_whole = len(arrived) == len(given)
        path = run.tokens / ("mixture.yaml" if is_whole else f"mixture.arrival-{arrival}.yaml")
        write_text(path, yaml.safe_dump(mixture, sort_keys=False, allow_unicode=True))
    chat = chat_settings(config)
    if chat is not None:
        reference = ReferenceEncoder(run.tokenizer)
        controls = control_names(chat.template, chat.name, reference)
        write_text(run.tokens / "chat_template.jinja", chat_template(chat.template, controls))
        write_yaml(run.tokens / "chat_template.yaml", chat.template.model_dump(mode="json", exclude_unset=True))
        ends = end_tokens(chat.template, chat.name, reference)
        write_json(run.tokens / "generation_config.json", {"eos_token_id": ends})
    summary_table(
        "token files",
        [[d[key] for key in ("name", "documents", "tokens", "heldout_tokens", "weight")] for d in mixture["datasets"]],
        ["source", "documents", "tokens", "held-out tokens", "weight"],
    )


def _mixture(
    config: DataConfig, run: RunDirectory, records: Mapping[str, Record], given: Sequence[SourceConfig]
) -> dict[str, Any]:
    """Return the content of a mixture file of some sources."""
    names = [source.name for source in given]
    tokens = [records[name].counts["tokens"] for name in names]
    weights = mixture_weights(names, [source.weight for source in given], tokens)
    reference = ReferenceEncoder(run.tokenizer)
    datasets = []
    for name, weight in zip(names, weights, strict=True):
        record = records[name]
        has_heldout = record.counts["heldout_documents"] > 0
        is_packed = "sequences" in record.counts
        packed = {"packed": config.tokens.pack, "conversations": record.counts["sequences"]} if is_packed else {}
        if is_packed and has_heldout:
            packed["heldout_conversations"] = record.counts["heldout_sequences"]
        datasets.append(
            {
                "name": name,
                "path": name,
                "heldout": f"{name}.heldout" if has_heldout else None,
                **{key: record.counts[key] for key in ("documents", "tokens", "heldout_documents", "heldout_tokens")},
                **packed,
                "weight": weight,
                "sha256": _checksums(run, record, name),
                "heldout_sha256": _checksums(run, record, f"{name}.heldout") if has_heldout else None,
            }
        )
    return {
        "version": 1,
        "tokenizer": "../" + run.tokenizer.name,
        "vocabulary_size": model_vocabulary_size(config.tokenizer, reference),
        "end_of_document": reference.end_of_document,
        "datasets": datasets,
    }


def _checksums(run: RunDirectory, record: Record, prefix: str) -> dict[str, str]:
    folder = run.tokens.relative_to(run.root)
    paths = {suffix: str(folder / f"{prefix}.{suffix}") for suffix in ("bin", "idx", "loss_mask")}
    paths["withdrawn"] = str(folder / f"{prefix}.withdrawn.json")
    return {suffix: record.checksums[path] for suffix, path in paths.items() if path in record.checksums}


# ---------------------------------------------------------------------------------------------------------------------
# names


def _prefix(run: RunDirectory, source: str, is_heldout: bool) -> Path:
    return run.tokens / (f"{source}.heldout" if is_heldout else source)


def _key(what: str, is_heldout: bool) -> str:
    return f"heldout_{what}" if is_heldout else what


def _encoded(run: RunDirectory, shard: str) -> Path:
    return run.tokens / "encoded" / shard


def _left_out(run: RunDirectory, shard: str) -> Path:
    return run.tokens / "encoded" / f"{shard}.left_out.jsonl"


def _flags(run: RunDirectory, shard: str) -> Path:
    return run.tokens / "encoded" / f"{shard}.heldout.npy"
