"""Which documents made a training step: `altiplano batch --config configs/train/….yaml --step N`.

From the settings of a run and its token files alone; nothing needs to have been logged. Each sample is shown with the
documents in it: id, URL, which of its tokens, and their text as the model sees it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.indexed_dataset.format import TokenFileError
from data_prep.indexed_dataset.origins import Origins
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from foundation.configuration import load_config
from foundation.terminal import visible
from pretrain.checkpoint.layout import CheckpointError
from pretrain.checkpoint.read import CheckpointReader
from pretrain.config import TrainConfig
from pretrain.data.loader import SampleReader, training_samples

_CHARACTERS = 300


class Lineage:
    """From a sample back to documents of the corpus.

    Args:
        reader: of the run.
        corpus: folder of the document shards; None: the one beside the token files.

    A token file made elsewhere has no origins: its documents are then known by their number only.
    """

    def __init__(self, reader: SampleReader, corpus: Path | None = None) -> None:
        self.reader = reader
        self.corpus = corpus or reader.mixture.path.parent.parent / "corpus"
        self.encoder = ReferenceEncoder(reader.mixture.tokenizer)
        self.missing: list[str] = []
        """Why some documents have no id or URL."""
        self._origins: dict[str, Origins | None] = {}
        self._urls: dict[str, list[str | None]] = {}

    def sample(self, i: int) -> dict[str, Any]:
        """The sample as JSON: dataset, epoch, window, and `parts`, one for each document in it."""
        described = self.reader.describe(i)
        tokens = self.reader.sample(i)
        d = self.reader.names.index(described.dataset)
        counted = None
        if self.reader.datasets[d].has_loss_mask:
            counted = self.reader.datasets[d].loss_mask(described.start, described.stop)
        parts = []
        for part in described.parts:
            piece = tokens[part.offset : part.offset + part.stop - part.start]
            identity = self._identity(described.dataset, part.document)
            parts.append(
                {
                    "document": part.document,
                    "id": identity,
                    "url": self._url(identity),
                    "tokens": [part.start, part.stop],
                    "of": len(self.reader.datasets[d].document(part.document)),
                    "counted": None if counted is None else int(counted[part.offset :][: len(piece)].sum()),
                    "text": self.encoder.decode(piece),
                }
            )
        return {
            "sample": i,
            "dataset": described.dataset,
            "epoch": described.epoch,
            "window": described.window,
            "parts": parts,
        }

    def _identity(self, dataset: str, document: int) -> str | None:
        if dataset not in self._origins:
            d = self.reader.names.index(dataset)
            tokens = self.reader.datasets[d]
            try:
                self._origins[dataset] = Origins(tokens.prefix, dataset, len(tokens))
            except TokenFileError as error:
                self._origins[dataset] = None
                self.missing.append(str(error))
        origins = self._origins[dataset]
        return None if origins is None else origins.identity(document)

    def _url(self, identity: str | None) -> str | None:
        if identity is None:
            return None
        shard, row = identity.rsplit("/", 1)
        if shard not in self._urls:
            path = self.corpus / f"{shard}.parquet"
            self._urls[shard] = pq.read_table(path, columns=["url"])["url"].to_pylist() if path.is_file() else []
            if not path.is_file():
                self.missing.append(f"{path}: no such file, so that URLs of its documents are not known")
        urls = self._urls[shard]
        return urls[int(row)] if int(row) < len(urls) else None


def as_text(sample: dict[str, Any], characters: int) -> Iterator[str]:
    """Lines for a person."""
    yield f"sample {sample['sample']}: {sample['dataset']}, epoch {sample['epoch']}, window {sample['window']}"
    for part in sample["parts"]:
        start, stop = part["tokens"]
        name = part["id"] or f"document {part['document']}"
        counted = "" if part["counted"] is None else f", {part['counted']} of them count in the loss"
        yield f"  {name}  tokens [{start}, {stop}) of {part['of']}{counted}  {part['url'] or ''}".rstrip()
        text = visible(part["text"])
        shown = text if len(text) <= characters else f"{text[: characters // 2]} […] {text[-characters // 2 :]}"
        yield from (f"    | {line}" for line in shown.splitlines())


def skipped_of(config: TrainConfig) -> list[tuple[int, int]]:
    """Ranges of samples that the newest checkpoint records as skipped; empty when there is none."""
    try:
        return CheckpointReader(config.output / "checkpoints").skipped_samples
    except CheckpointError:
        return []


EXAMPLES = """examples:
  altiplano batch --config configs/train/demo.yaml --step 40
      the documents behind one training step, with the beginning of each
  altiplano batch --config runs/demo/train/config.resolved.yaml --samples 640:656 --json
      samples of the plan, with their whole text, one line of JSON each"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano batch",
        description="Which documents, with text, made a training step.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="the run's YAML file, or its config.resolved.yaml")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--step", type=int, help="all samples of this step, as metrics.jsonl counts: the first is 1")
    which.add_argument("--samples", type=number_range, metavar="A:B", help="samples [A, B) of the plan")
    parser.add_argument(
        "--skipped", type=number_range, action="append", metavar="A:B", help="default: by the checkpoint"
    )
    parser.add_argument("--corpus", type=Path, help="folder of document shards (default: beside the token files)")
    parser.add_argument("--characters", type=int, default=_CHARACTERS, help="of each document (default 300)")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each sample, with the whole text")
    parser.add_argument("overrides", nargs="*", help="settings by dotted name")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 when something does not fit."""
    given = make_parser().parse_intermixed_args(arguments)
    try:
        config = load_config(TrainConfig, given.config, given.overrides)
        skipped = skipped_of(config) if given.skipped is None else given.skipped
        reader = training_samples(config, skipped=skipped)
        if given.step is not None:
            if given.step < 1:
                raise ValueError(f"--step {given.step}: the first step is 1")
            sizes = config.batch.sizes
            positions = range(sizes.after(given.step - 1), sizes.after(given.step))
            samples = reader.skipped.samples_at(list(positions)).tolist()
        else:
            samples = list(range(*given.samples))
        lineage = Lineage(reader, given.corpus)
        for i in samples:
            sample = lineage.sample(i)
            print(
                json.dumps(sample, ensure_ascii=False) if given.json else "\n".join(as_text(sample, given.characters))
            )
        for line in lineage.missing:
            print(line, file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"inspect_batch: {error}", file=sys.stderr)
        return 2
    return 0


def number_range(text: str) -> tuple[int, int]:
    """`A:B` on the command line: the half-open range of both."""
    first, colon, stop = text.partition(":")
    if not (colon and first.isdecimal() and stop.isdecimal() and int(first) < int(stop)):
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B with 0 <= A < B")
    return int(first), int(stop)


if __name__ == "__main__":
    sys.exit(main())
