"""Show the contents of a token file: `altiplano tokens inspect PREFIX`.

    altiplano tokens inspect runs/demo/tokens/python                     statistics
    altiplano tokens inspect runs/demo/tokens/python --documents 0:3     text, id and URL
    altiplano tokens inspect other/data_text_document --verify --vocabulary-size 50304 --end-of-document 0
    altiplano tokens inspect other/data --convert tokens/data --vocabulary-size 50304 --end-of-document 0

The last two take files made elsewhere: Megatron's `.bin/.idx`, or `.ds` and `.ds.index` of datatrove and nanotron.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data_prep.indexed_dataset.foreign import convert, verify
from data_prep.indexed_dataset.format import TokenFileError, bin_path, idx_path
from data_prep.indexed_dataset.origins import PADDING, Origins, origins_path
from data_prep.indexed_dataset.reader import IndexedDataset
from data_prep.indexed_dataset.withdrawn import withdrawn_path
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from foundation.atomic_files import sha256_file
from foundation.terminal import visible
from pretrain.data.mixture import load_mixture
from tools.inspect_batch import number_range

_CHUNK = 1 << 24
_QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)


def statistics_of(dataset: IndexedDataset, tokenizer: Path | None) -> Iterator[str]:
    """Lines on sizes, ids and ends."""
    sizes = dataset.sizes
    yield f"{bin_path(dataset.prefix)}: {len(dataset):,} documents, {dataset.token_count:,} tokens of {dataset.dtype}"
    if not len(dataset):
        return
    sequences = len(dataset.sequence_sizes)
    if dataset.is_packed:
        packs, padding = dataset.packs, _padding(dataset)
        yield f"  {packs:,} packs, {padding:,} tokens of them padding ({1 - padding / dataset.token_count:.2%} full);"
        yield "  a document is a conversation here, or the padding of a pack"
    elif sequences != len(dataset):
        yield f"  sequences  {sequences:,}: some documents are of several"
    quantiles = np.quantile(sizes, _QUANTILES).astype(int).tolist()
    yield "  tokens of a document  " + ", ".join(
        f"{share:.0%} {size:,}" for share, size in zip(_QUANTILES, quantiles, strict=True)
    )
    yield f"  mean  {sizes.mean():,.1f}"
    if dataset.has_loss_mask:
        counted = sum(
            int(np.count_nonzero(dataset.loss_mask(start, min(start + _CHUNK, dataset.token_count))))
            for start in range(0, dataset.token_count, _CHUNK)
        )
        yield f"  the loss counts {counted:,} tokens, {counted / dataset.token_count:.1%}; the others are only read"
    if dataset.withdrawn is not None:
        taken, tokens = len(dataset.withdrawn.documents), dataset.withdrawn.tokens
        yield f"  documents taken out  {taken:,}, {tokens:,} tokens, see {withdrawn_path(dataset.prefix).name}"
    every = max(1, len(dataset) // 1000)
    looked_at = [dataset.document(i) for i in range(0, len(dataset), every)]
    last, counts = np.unique([tokens[-1] for tokens in looked_at if len(tokens)], return_counts=True)
    common = int(last[counts.argmax()])
    yield f"  {counts.max() / len(looked_at):.1%} of {len(looked_at):,} documents looked at end with token {common}"
    used = np.unique(np.concatenate(looked_at))
    yield f"  ids used in them  {len(used):,}, from {int(used[0])} to {int(used[-1])}"
    if tokenizer is not None:
        encoder = ReferenceEncoder(tokenizer)
        sample = np.concatenate(looked_at)
        size = len(encoder.decode(sample[sample != encoder.end_of_document]).encode())
        yield f"  bytes per token  {size / max(1, int(np.count_nonzero(sample != encoder.end_of_document))):.3f}"
        if not dataset.is_packed:
            right = "is" if common == encoder.end_of_document else f"IS NOT, that is {encoder.end_of_document},"
            yield f"  token {common} {right} the end of a document by {tokenizer}"


def packed_length(prefix: Path) -> int | None:
    """Tokens of a pack, by the `mixture.yaml` beside the files; None: they are not packed, or there is none."""
    mixture = prefix.parent / "mixture.yaml"
    if not mixture.is_file():
        return None
    return next((one.packed for one in load_mixture(mixture).datasets if prefix.name in (one.path, one.heldout)), None)


def _padding(dataset: IndexedDataset) -> int:
    source = dataset.prefix.name.removesuffix(".heldout")
    origins = Origins(dataset.prefix, source, len(dataset))
    return int(dataset.sequence_sizes[origins.packed == PADDING].sum())


def texts_of(dataset: IndexedDataset, documents: range, tokenizer: Path, characters: int) -> Iterator[str]:
    """Lines with the text of documents, and where they are from when that is known."""
    encoder = ReferenceEncoder(tokenizer)
    source = dataset.prefix.name.removesuffix(".heldout")
    has_origins = origins_path(dataset.prefix).is_file()
    origins = Origins(dataset.prefix, source, len(dataset)) if has_origins else None
    for i in documents:
        tokens = dataset.document(i)
        known = origins.identity(i) if origins else None
        name = known or (f"document {i}, padding" if origins else f"document {i}")
        counted = ""
        if dataset.has_loss_mask:
            mask = dataset.loss_mask(*dataset.document_range(i))
            learnt = visible(encoder.decode(tokens[mask]))
            counted = f", the loss counts {int(mask.sum()):,}: {learnt[:60]}{' […]' if len(learnt) > 60 else ''}"
        yield f"{name}: {len(tokens):,} tokens{_url(dataset.prefix, known) if known else ''}{counted}"
        text = visible(encoder.decode(tokens))
        shown = text if len(text) <= characters else f"{text[: characters // 2]} […] {text[-characters // 2 :]}"
        yield from (f"    | {line}" for line in shown.splitlines())


def _url(prefix: Path, identity: str) -> str:
    shard, row = identity.rsplit("/", 1)
    path = prefix.parent.parent / "corpus" / f"{shard}.parquet"
    if not path.is_file():
        return ""
    return f", {pq.read_table(path, columns=['url'])['url'][int(row)].as_py()}"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano tokens inspect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prefix", type=Path, help="path of the files without .bin, .idx or .ds")
    parser.add_argument("--documents", type=number_range, metavar="A:B", help="show the text of documents [A, B)")
    parser.add_argument("--tokenizer", type=Path, help="its folder (default: ../tokenizer beside the files)")
    parser.add_argument("--characters", type=int, default=600, help="of each document (default 600)")
    parser.add_argument("--checksums", action="store_true", help="also SHA-256 of both files")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--verify", action="store_true", help="read everything and count what breaks our rules; JSON")
    what.add_argument("--convert", type=Path, metavar="OUTPUT", help="write a copy that keeps our rules; prefix")
    parser.add_argument("--vocabulary-size", type=int, help="for --verify and --convert (default: the tokenizer's)")
    parser.add_argument("--end-of-document", type=int, help="for --verify and --convert (default: the tokenizer's)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 1 when `--verify` finds a fault, 2 when something does not fit."""
    given = make_parser().parse_args(arguments)
    beside = given.prefix.parent.parent / "tokenizer"
    tokenizer = given.tokenizer or (beside if (beside / "tokenizer.json").is_file() else None)
    try:
        if given.verify or given.convert:
            size, end = given.vocabulary_size, given.end_of_document
            if size is None or end is None:
                if tokenizer is None:
                    raise ValueError("give --vocabulary-size and --end-of-document, or --tokenizer")
                encoder = ReferenceEncoder(tokenizer)
                size, end = size or encoder.vocabulary_size, encoder.end_of_document if end is None else end
            if given.convert and packed_length(given.prefix):
                raise ValueError(f"{given.prefix}: is packed here, so there is nothing to convert")
            if given.convert:
                print(json.dumps(convert(given.prefix, given.convert, size, end), indent=2))
                return 0
            findings = verify(given.prefix, size, end, packed_length(given.prefix))
            print(json.dumps(findings.as_json(), indent=2))
            return 0 if findings.is_clean else 1
        dataset = IndexedDataset(given.prefix, is_packed=packed_length(given.prefix) is not None)
        dataset.check_index()
        if given.documents is not None:
            if tokenizer is None:
                raise ValueError("give --tokenizer: there is none beside the files")
            start, stop = given.documents
            if stop > len(dataset):
                raise ValueError(f"--documents {start}:{stop}: {given.prefix} has {len(dataset)} documents")
            lines = texts_of(dataset, range(start, stop), tokenizer, given.characters)
        else:
            lines = statistics_of(dataset, tokenizer)
        for line in lines:
            print(line)
        if given.checksums:
            for path in (bin_path(given.prefix), idx_path(given.prefix)):
                print(f"{sha256_file(path)}  {path}")
    except (TokenFileError, ValueError, OSError) as error:
        print(f"inspect_tokens: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
