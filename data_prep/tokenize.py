"""The tokenize stage: encode each shard, then collect each source in a global random order.

    tokens/<source>.bin|idx           training data
    tokens/<source>.heldout.bin|idx   held-out documents, chosen by a hash of their id
    tokens/<source>.loss_mask         only if the loss excludes parts of documents, see `format`
    tokens/<source>.origins.npy       id of each document, see `origins`
    tokens/mixture.yaml               counts, weights, checksums
    tokens/encoded/                   encoded shards, until their source is collected

Shards are encoded in parallel; then documents are copied through memory maps in the order of a keyed permutation.
Neither step needs more than a few megabytes for tokens, and the bytes are the same for any number of workers. Each
document is decoded as soon as it is encoded, and compared byte by byte.
"""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from data_prep.compile_kernels import ENCODE, compile_kernels
from data_prep.config import DataConfig
from data_prep.indexed_dataset.format import bin_path
from data_prep.indexed_dataset.origins import origins_path, pack, write_origins
from data_prep.indexed_dataset.permutation import KeyedPermutation
from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.indexed_dataset.writer import IndexedDatasetWriter
from data_prep.run.commit_records import Record, Stage, committed_digest
from data_prep.run.directory import RunDirectory
from data_prep.run.executors import run_units
from data_prep.run.manifest import Manifest, load_manifest
from data_prep.tokenizer.adopt import model_vocabulary_size
from data_prep.tokenizer.encoding.encode import ReferenceEncoder, open_encoder
from data_prep.tokenizer.encoding.encoded import Encoded, Encoder, TokenizerError
from data_prep.tokenizer.encoding.token_bytes import TokenBytes
from data_prep.tokenizer.kept_documents import KeptBatch, KeptShard, id_fraction, mixture_weights
from foundation.atomic_files import write_array, write_text
from foundation.progress import summary_table

VERSION = 3

_GATHERED_TOKENS = 4_000_000
"""Number of tokens in memory while a source is collected."""
_GATHERED_DOCUMENTS = 100_000


def tokenize(config: DataConfig, run: RunDirectory) -> None:
    """Write `tokens/`. A source without a kept document is left out and reported.

    Raises:
        ValueError: no source has anything to train on; the tokenizer has no end-of-document token; stale outputs.
    """
    manifest = load_manifest(run)
    stage = tokenize_stage(config, run, manifest)
    shards: dict[str, list[str]] = {source.name: [] for source in config.sources}
    for shard in manifest.shards:
        shards[shard.source].append(shard.name)
    unfinished = [source for source in shards if not stage.is_done(source)]
    to_encode = [shard for source in unfinished for shard in shards[source]]
    if to_encode:
        compile_kernels(ENCODE)  # cold where the tokenizer was trained on another machine
        share = config.tokens.heldout_share
        encode = partial(encode_shard, stage=stage, seed=config.seed, heldout_share=share)
        run_units(encode, to_encode, config.workers, "tokenize: encoding", stage)
        _refuse_all_heldout(stage, shards, unfinished, share)
        _say_inexact(stage, to_encode)
    gather = partial(gather_source, stage=stage, shards=shards, seed=config.seed)
    run_units(gather, list(shards), config.workers, "tokenize: shuffling", stage)
    shutil.rmtree(run.tokens / "encoded", ignore_errors=True)
    write_mixture(config, run, stage.records())


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


def tokenize_stage(config: DataConfig, run: RunDirectory, manifest: Manifest) -> Stage:
    decided = committed_digest(run, "decide", manifest.shard_names)
    tokenizer = committed_digest(run, "train-tokenizer", ["tokenizer"])
    settings = {"heldout_share": config.tokens.heldout_share, "seed": config.seed}
    return Stage(run, "tokenize", VERSION, settings, inputs=f"{decided}+{tokenizer}")


# ---------------------------------------------------------------------------------------------------------------------
# encode a shard


def encode_shard(name: str, stage: Stage, seed: int, heldout_share: float) -> None:
    """Encode the kept documents of a shard, in its order, and mark held-out ones.

    Raises:
        TokenizerError: a document does not decode to its original text.
    """
    run = stage.run
    prefix, flags_path = _encoded(run, name), _flags(run, name)
    encoder, table = _opened(run.tokenizer, stage.inputs)
    kept = KeptShard(run, name)
    new_file = stage.new_file()
    flags: list[bool] = []
    identities: list[str] = []
    byte_count = inexact = 0
    with ExitStack() as stack:
        writer: IndexedDatasetWriter | None = None
        for batch in kept.batches():
            if writer is None:
                writer = IndexedDatasetWriter(
                    prefix,
                    encoder.vocabulary_size,
                    with_loss_mask=kept.has_no_loss,
                    with_digests=False,
                    keep_first=stage.keeps_first,
                )
                stack.enter_context(writer)
            encoded = encoder.encode(batch.texts)
            inexact += _count_inexact(table, encoded, batch)
            mask = table.loss_mask(encoded, batch.no_loss) if kept.has_no_loss else None
            writer.add_documents(encoded.tokens, encoded.sizes, mask)
            flags += [id_fraction(seed, "heldout", identity) < heldout_share for identity in batch.identities]
            identities += batch.identities
            byte_count += int(batch.texts.sizes.sum())
    heldout = sum(flags)
    counts = {
        "documents": len(flags) - heldout,
        "heldout_documents": heldout,
        "bytes": byte_count,
        "inexact": inexact,
    }
    if writer is None:
        stage.commit(name, [], counts)
        return
    write_array(flags_path, np.array(flags), new_file)
    origins = write_origins(prefix, pack(identities), new_file)
    stage.commit(name, [], counts, scratch=[*writer.paths, flags_path, origins])


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


def gather_source(source: str, stage: Stage, shards: dict[str, list[str]], seed: int) -> None:
    """Copy the documents of a source into its two files, in the order of a permutation keyed by seed and source."""
    run = stage.run
    names = [name for name in shards[source] if bin_path(_encoded(run, name)).is_file()]
    counts = {_key(what, is_heldout): 0 for what in ("documents", "tokens") for is_heldout in (False, True)}
    if not names:
        stage.commit(source, [], counts)
        return
    datasets = [IndexedDataset(_encoded(run, name)) for name in names]
    flags = [np.load(_flags(run, name)) for name in names]
    origins = [np.load(origins_path(_encoded(run, name))) for name in names]
    gathered: dict[bool, list[npt.NDArray[np.int64]]] = {False: [], True: []}
    vocabulary_size = ReferenceEncoder(run.tokenizer).vocabulary_size
    writers: dict[bool, IndexedDatasetWriter] = {}
    with ExitStack() as stack:
        for is_heldout in (False, True):
            if any((flag == is_heldout).any() for flag in flags):
                writer = IndexedDatasetWriter(
                    _prefix(run, source, is_heldout),
                    vocabulary_size,
                    with_loss_mask=any(dataset.has_loss_mask for dataset in datasets),
                    keep_first=stage.keeps_first,
                )
                writers[is_heldout] = stack.enter_context(writer)
        for part in _shuffled(datasets, flags, origins, f"{seed}/documents/{source}"):
            writer = writers[part.is_heldout]
            writer.add_documents(part.tokens, part.sizes, part.loss_mask if writer.with_loss_mask else None)
            gathered[part.is_heldout].append(part.origins)
    digests: dict[Path, str] = {}
    outputs: list[Path] = []
    for is_heldout, writer in writers.items():
        IndexedDataset(writer.prefix).check_index()
        digests |= writer.digests
        outputs.append(write_origins(writer.prefix, np.concatenate(gathered[is_heldout]), stage.new_file(digests)))
        counts[_key("documents", is_heldout)] = writer.documents
        counts[_key("tokens", is_heldout)] = writer.tokens
    stage.commit(source, [*digests, *outputs], counts, digests=digests)


@dataclass(frozen=True)
class _Gathered:
    """Some concatenated documents, [documents] or [tokens]."""

    is_heldout: bool
    tokens: npt.NDArray[Any]
    loss_mask: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.int64]
    origins: npt.NDArray[np.int64]


def _shuffled(
    datasets: Sequence[IndexedDataset],
    flags: Sequence[npt.NDArray[np.bool_]],
    origins: Sequence[npt.NDArray[np.int64]],
    key: str,
) -> Iterator[_Gathered]:
    """Yield all documents of the datasets in random order, in batches."""
    ends = np.cumsum([len(dataset) for dataset in datasets])
    permutation = KeyedPermutation(int(ends[-1]), key)
    held: dict[bool, list[tuple[npt.NDArray[Any], npt.NDArray[np.bool_], int]]] = {False: [], True: []}
    held_tokens = 0

    def release() -> Iterator[_Gathered]:
        for is_heldout, documents in held.items():
            if documents:
                tokens, masks, where = zip(*documents, strict=True)
                sizes = np.fromiter(map(len, tokens), np.int64, len(documents))
                yield _Gathered(
                    is_heldout, np.concatenate(tokens), np.concatenate(masks), sizes, np.array(where, np.int64)
                )
                documents.clear()

    for first in range(0, int(ends[-1]), _GATHERED_DOCUMENTS):
        order = permutation(np.arange(first, min(first + _GATHERED_DOCUMENTS, int(ends[-1]))))
        dataset_of = np.searchsorted(ends, order, "right")
        for d, document in zip(dataset_of.tolist(), order.tolist(), strict=True):
            inner = document - int(ends[d]) + len(datasets[d])
            start, stop = datasets[d].document_range(inner)
            mask = datasets[d].loss_mask(start, stop)
            held[bool(flags[d][inner])].append((datasets[d].tokens(start, stop), mask, int(origins[d][inner])))
            held_tokens += stop - start
            if held_tokens >= _GATHERED_TOKENS:
                yield from release()
                held_tokens = 0
        yield from release()
        held_tokens = 0


# ---------------------------------------------------------------------------------------------------------------------
# mixture


def write_mixture(config: DataConfig, run: RunDirectory, records: Mapping[str, Record]) -> None:
    """Write `mixture.yaml` from the records of the sources.

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
    names = [source.name for source in given]
    tokens = [records[name].counts["tokens"] for name in names]
    weights = mixture_weights(names, [source.weight for source in given], tokens)
    reference = ReferenceEncoder(run.tokenizer)
    datasets = []
    for name, weight in zip(names, weights, strict=True):
        record = records[name]
        has_heldout = record.counts["heldout_documents"] > 0
        datasets.append(
            {
                "name": name,
                "path": name,
                "heldout": f"{name}.heldout" if has_heldout else None,
                **{key: record.counts[key] for key in ("documents", "tokens", "heldout_documents", "heldout_tokens")},
                "weight": weight,
                "sha256": _checksums(run, record, name),
                "heldout_sha256": _checksums(run, record, f"{name}.heldout") if has_heldout else None,
            }
        )
    mixture = {
        "version": 1,
        "tokenizer": "../" + run.tokenizer.name,
        "vocabulary_size": model_vocabulary_size(config.tokenizer, reference),
        "end_of_document": reference.end_of_document,
        "datasets": datasets,
    }
    write_text(run.tokens / "mixture.yaml", yaml.safe_dump(mixture, sort_keys=False, allow_unicode=True))
    summary_table(
        "token files",
        [[d[key] for key in ("name", "documents", "tokens", "heldout_tokens", "weight")] for d in datasets],
        ["source", "documents", "tokens", "held-out tokens", "weight"],
    )


def _checksums(run: RunDirectory, record: Record, prefix: str) -> dict[str, str]:
    folder = run.tokens.relative_to(run.root)
    paths = {suffix: str(folder / f"{prefix}.{suffix}") for suffix in ("bin", "idx", "loss_mask")}
    return {suffix: record.checksums[path] for suffix, path in paths.items() if path in record.checksums}


# ---------------------------------------------------------------------------------------------------------------------
# names


def _prefix(run: RunDirectory, source: str, is_heldout: bool) -> Path:
    return run.tokens / (f"{source}.heldout" if is_heldout else source)


def _key(what: str, is_heldout: bool) -> str:
    return f"heldout_{what}" if is_heldout else what


def _encoded(run: RunDirectory, shard: str) -> Path:
    return run.tokens / "encoded" / shard


def _flags(run: RunDirectory, shard: str) -> Path:
    return run.tokens / "encoded" / f"{shard}.heldout.npy"
