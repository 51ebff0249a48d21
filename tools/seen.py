"""Which training steps and checkpoints of a run saw which documents: `altiplano seen --config configs/train/….yaml`.

A step saw a document if one of its samples has tokens of it that the loss may count. Documents that `altiplano data
remove` has taken out are known by where they were, and count until the run was started without them.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.indexed_dataset.origins import Origins, pack
from data_prep.indexed_dataset.reader import IndexedDataset
from foundation.atomic_files import write_json
from foundation.configuration import load_config
from foundation.progress import Progress, summary_table
from pretrain.checkpoint.layout import complete_checkpoints, step_folder, step_of
from pretrain.checkpoint.read import CheckpointReader
from pretrain.config import TrainConfig
from pretrain.data.loader import SampleReader, training_samples
from pretrain.data.withdrawn import read_withdrawn

RESULT_FILE = "seen.json"
_SAMPLES_AT_ONCE = 1 << 20
_SHOWN = 20


@dataclass(frozen=True)
class Place:
    """Tokens [start, stop) of the token file of a dataset, and the document that they are of."""

    dataset: int
    start: int
    stop: int
    document: str


def steps_that_saw(
    reader: SampleReader, config: TrainConfig, consumed: int, places: Sequence[Place]
) -> Mapping[int, set[int]]:
    """Steps of the run, from 1, that had tokens of each place in a sample; places that none had are left out.

    Args:
        consumed: samples that the run has trained on.
    """
    windows: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    lengths = sorted({phase.sequence_length for phase in reader.order.phases}) if reader.order else []
    for number, place in enumerate(places):
        for length in lengths:
            for window in range(max(place.start - 1, 0) // length, (place.stop - 1) // length + 1):
                windows[place.dataset, length][window].append(number)
    seen: dict[int, set[int]] = defaultdict(set)
    sizes = config.batch.sizes
    with Progress("samples of the run", consumed, "samples") as progress:
        for begin in range(0, consumed, _SAMPLES_AT_ONCE):
            positions = np.arange(begin, min(begin + _SAMPLES_AT_ONCE, consumed))
            samples = reader.skipped.samples_at(positions)
            where, of_length = reader.locate(samples), reader.lengths(samples)
            for (dataset, length), by_window in windows.items():
                mine = (where.dataset == dataset) & (of_length == length)
                mine &= np.isin(where.window, np.fromiter(by_window, np.int64))
                for at in np.flatnonzero(mine).tolist():
                    for number in by_window[int(where.window[at])]:
                        seen[number].add(sizes.steps_to(int(positions[at]) + 1))
            progress.advance(len(positions))
    return seen


def places_of(reader: SampleReader, ids: Sequence[str]) -> list[Place]:
    """Where documents are in the token files that are trained on, or were before they were taken out.

    Args:
        ids: empty: all documents that were taken out.

    Raises:
        ValueError: a document is in none of them, for example because it was dropped or is held out.
    """
    places = []
    for number, (name, dataset) in enumerate(zip(reader.names, reader.datasets, strict=True)):
        places += [Place(number, *where) for where in _in_dataset(dataset, name, ids)]
    found = {place.document for place in places}
    missing = [identity for identity in ids if identity not in found]
    if missing:
        more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        raise ValueError(
            f"{missing[0]}{more}: in none of the files that the run trains on; `altiplano data why {missing[0]}` tells "
            "whether it was dropped, and held-out documents are only evaluated on"
        )
    return places


def _in_dataset(dataset: IndexedDataset, name: str, ids: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    if not ids:
        for one in dataset.withdrawn.documents if dataset.withdrawn else ():
            yield one.start, one.stop, one.id
        return
    own = [identity for identity in ids if identity.rpartition("/")[0].rpartition("-")[0] == name]
    if not own:
        return
    origins = Origins(dataset.prefix, name, len(dataset))
    for row in np.flatnonzero(np.isin(origins.packed, pack(own))).tolist():
        yield *dataset.document_range(row), origins.identity(row) or ""


def seen_documents(config: TrainConfig, ids: Sequence[str] = (), step: int | None = None) -> dict[str, Any]:
    """What a run's checkpoints have seen of documents.

    Args:
        config: of the run.
        ids: of the documents; empty: all that were taken out.
        step: of the newest checkpoint to look at; None: the newest there is.

    Returns:
        JSON: `step`; `documents`, by id: tokens, steps, the finished steps after which the run was without it, and the
        checkpoints on disk that have seen it.

    Raises:
        ValueError, OSError: the run has no checkpoint, its token files are missing, or have no such document.
    """
    folder = config.output / "checkpoints"
    checkpoint = CheckpointReader(folder if step is None else step_folder(folder, step))
    reader = training_samples(config, skipped=checkpoint.skipped_samples)
    places, without = places_of(reader, ids), read_withdrawn(config.output)
    steps: dict[str, set[int]] = {place.document: set() for place in places}
    tokens: dict[str, int] = defaultdict(int)
    for place in places:
        tokens[place.document] += place.stop - place.start
    for number, found in steps_that_saw(reader, config, checkpoint.consumed_samples, places).items():
        identity = places[number].document
        steps[identity] |= {one for one in found if one <= without.get(identity, one)}
    written = sorted(map(step_of, complete_checkpoints(folder)))
    return {
        "step": checkpoint.step,
        "documents": {
            identity: {
                "tokens": tokens[identity],
                "steps": sorted(own),
                "without_it_after": without.get(identity),
                "checkpoints": [one for one in written if own and min(own) <= one <= checkpoint.step],
            }
            for identity, own in sorted(steps.items())
        },
    }


EXAMPLES = """examples:
  altiplano seen --config configs/train/demo.yaml
      the documents that `altiplano data remove` has taken out of the run's token files: steps and checkpoints
  altiplano seen --config configs/train/demo.yaml --document python-00000/0000012 --step 400
      any document, up to a checkpoint; ids are those of `altiplano data why` and `altiplano batch`"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano seen",
        description="Which training steps and checkpoints of a run saw which documents.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="the run's YAML file, or its config.resolved.yaml")
    parser.add_argument("--document", nargs="+", default=[], metavar="ID", help="default: all that were taken out")
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the newest)")
    parser.add_argument("overrides", nargs="*", help="settings by dotted name")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 when something does not fit."""
    given = make_parser().parse_intermixed_args(arguments)
    try:
        config = load_config(TrainConfig, given.config, given.overrides)
        found = seen_documents(config, given.document, given.step)
    except (ValueError, OSError) as error:
        print(f"seen: {error}", file=sys.stderr)
        return 2
    documents = found["documents"]
    if not documents:
        print("seen: no document was taken out of the token files of this run; --document names others")
        return 0
    rows = [
        (
            *(identity, row["tokens"], len(row["steps"]), min(row["steps"], default=""), max(row["steps"], default="")),
            ", ".join(map(str, row["checkpoints"])),
        )
        for identity, row in list(documents.items())[:_SHOWN]
    ]
    titles = ("document", "tokens", "steps", "first", "last", "checkpoints that saw it")
    summary_table(f"seen until step {found['step']:,}", rows, titles)
    if len(documents) > _SHOWN:
        print(f"and {len(documents) - _SHOWN:,} more")
    path = config.output / RESULT_FILE
    write_json(path, found)
    print(f"every step: {path}; models that were exported or trained on from these checkpoints saw them too")
    return 0


if __name__ == "__main__":
    sys.exit(main())
