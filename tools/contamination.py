"""Which training steps saw which items of evaluation sets: `altiplano contamination --config configs/train/….yaml`.

The data run must have measured the sets (`decontamination` in its configuration). Documents in which it found items are
searched again, this time in the very tokens that the run trains on, so that what rules cut or redacted does not count.
A step saw an item if one of its samples has tokens of eight or more words of it in a row. How much of each item all
documents together have is measured as GPT-3's, PaLM's and Llama 2's authors did, see
`data_prep/signals/evaluations.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.config import DataConfig
from data_prep.indexed_dataset.origins import Origins, pack
from data_prep.rules import decontamination
from data_prep.run.commit_records import read_records
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import load_manifest
from data_prep.signals.evaluations import EvaluationItems, ItemMeasures, ItemRun, set_digests
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from foundation.atomic_files import write_json
from foundation.configuration import load_config
from foundation.progress import Progress, summary_table
from pretrain.checkpoint.layout import step_folder
from pretrain.checkpoint.read import CheckpointReader
from pretrain.config import TrainConfig
from pretrain.data.loader import SampleReader, training_samples
from tools.seen import Place, steps_that_saw

RESULT_FILE = "contamination.json"


@dataclass
class _Seen:
    """What the run has seen of an item."""

    runs: list[ItemRun] = field(default_factory=list)
    documents: set[str] = field(default_factory=set)
    steps: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class _Place(Place):
    """Place with words of an item."""

    run: ItemRun


def measured_sets(config: DataConfig, run: RunDirectory) -> EvaluationItems:
    """Read the evaluation sets that a data run has measured.

    Raises:
        ValueError: it has none, or other ones.
    """
    if not config.decontamination:
        raise ValueError(
            f"{run.root}: its configuration names no evaluation sets: name them under `decontamination`, and measure "
            "the documents with `altiplano data run --restart measure`"
        )
    records = read_records(run, "measure")
    recorded = next(iter(records.values())).settings.get("decontamination") if records else None
    if recorded != set_digests(config.decontamination):
        raise ValueError(
            f"{run.root}: its documents were measured with other evaluation sets than `decontamination` in "
            "config.resolved.yaml names, or the files have changed: run `altiplano data run --restart measure`"
        )
    return EvaluationItems.of(config.decontamination)


def documents_with_items(run: RunDirectory, datasets: Sequence[str]) -> dict[str, list[str]]:
    """Ids of the documents in which measuring found items, in order, by dataset.

    Raises:
        ValueError: a dataset is no source of the run, so that nobody has searched its documents.
    """
    manifest = load_manifest(run)
    found: dict[str, list[str]] = {name: [] for name in datasets}
    sources = {source.name for source in manifest.sources}
    if foreign := sorted(found.keys() - sources):
        raise ValueError(
            f"{run.root}: dataset {foreign[0]!r} of the mixture is not one of its sources "
            f"({', '.join(sorted(sources))}): its documents were not searched for items"
        )
    with Progress("signals", len(manifest.shards), "shards") as progress:
        for shard in manifest.shards:
            if shard.source in found:
                path = run.signals / f"{shard.name}.parquet"
                table = pq.read_table(path, columns=["id", "evaluation_matches"])
                has_items = pc.greater(pc.fill_null(pc.list_value_length(table["evaluation_matches"]), 0), 0)
                found[shard.source] += table.filter(has_items)["id"].to_pylist()
            progress.advance()
    return found


def places_of_items(reader: SampleReader, run: RunDirectory, items: EvaluationItems) -> Iterator[_Place]:
    """Search the training documents in which measuring found items; yield where their tokens have words of them."""
    encoder = ReferenceEncoder(reader.mixture.tokenizer)
    candidates = []
    with_items = documents_with_items(run, reader.names)
    for d, source in enumerate(reader.names):
        tokens = reader.datasets[d]
        origins = Origins(tokens.prefix, source, len(tokens))
        wanted = pack(with_items[source])
        candidates += [(d, document, origins) for document in np.flatnonzero(np.isin(origins.packed, wanted)).tolist()]
    with Progress("training documents with items", len(candidates), "documents") as progress:
        for d, document, origins in candidates:
            first, last = reader.datasets[d].document_range(document)
            tokens_of = reader.datasets[d].document(document)
            tokens_of = tokens_of[tokens_of != reader.mixture.end_of_document]
            for found in items.find_in(encoder.decode(tokens_of).encode()):
                start = _tokens_before(encoder, tokens_of, found.start)
                stop = min(_tokens_before(encoder, tokens_of, found.end - 1) + 1, last - first)
                yield _Place(d, first + start, first + stop, origins.identity(document) or "", found)
            progress.advance()


def _tokens_before(encoder: ReferenceEncoder, tokens: npt.NDArray[Any], byte: int) -> int:
    """Number of tokens before the one that has a byte of their text."""
    few, many = 0, len(tokens)
    while few < many:
        middle = (few + many) // 2
        if len(encoder.decode(tokens[: middle + 1]).encode()) <= byte:
            few = middle + 1
        else:
            many = middle
    return few


def contamination(config: TrainConfig, step: int | None = None) -> dict[str, Any]:
    """What a run's checkpoint has seen of the evaluation sets.

    Args:
        config: of the run.
        step: of the checkpoint; None: the newest.

    Returns:
        JSON: `step`; `sets`, by name: items, how many were seen, and how many count as contaminated by each measure;
        `items`: for each item that was seen its measures, documents and steps.

    Raises:
        ValueError, OSError: the run has no checkpoint, or its data were not measured with evaluation sets.
    """
    folder = config.output / "checkpoints"
    checkpoint = CheckpointReader(folder if step is None else step_folder(folder, step))
    reader = training_samples(config, skipped=checkpoint.skipped_samples)
    run = RunDirectory(reader.mixture.path.parent.parent)
    items = measured_sets(load_config(DataConfig, run.root / "config.resolved.yaml"), run)
    places = list(places_of_items(reader, run, items))
    seen: dict[int, _Seen] = defaultdict(_Seen)
    for number, steps in steps_that_saw(reader, config, checkpoint.consumed_samples, places).items():
        item = seen[places[number].run.item]
        item.runs.append(places[number].run)
        item.documents.add(places[number].document)
        item.steps |= steps
    return _as_json(items, seen, checkpoint.step)


def _as_json(items: EvaluationItems, seen: Mapping[int, _Seen], step: int) -> dict[str, Any]:
    sets: dict[str, dict[str, Any]] = {
        found.name: {"items": len(found.names), "too_short": found.too_short, "seen": 0, "first_step": None}
        | dict.fromkeys(decontamination.NAMES, 0)
        for found in items.sets
    }
    rows = []
    for item, of_item in sorted(seen.items()):
        name, identity = items.named(item)
        measures = items.measure(item, of_item.runs)
        verdicts = contaminated(measures)
        row = sets[name]
        row["seen"] += 1
        row["first_step"] = min(filter(None, (row["first_step"], min(of_item.steps))))
        for variant, is_contaminated in verdicts.items():
            row[variant] += is_contaminated
        rows.append(
            {
                "set": name,
                "item": identity,
                **measures._asdict(),
                **verdicts,
                "documents": sorted(of_item.documents),
                "steps": sorted(of_item.steps),
            }
        )
    return {"step": step, "sets": sets, "items": rows}


def contaminated(measures: ItemMeasures) -> dict[str, bool]:
    """Whether an item counts as contaminated by each published measure, by the name of its rule set."""
    signals = {
        "evaluation_collisions": float(measures.collides),
        "evaluation_ngram_share": measures.ngram_share,
        "evaluation_token_share": measures.token_share,
    }
    found = {}
    for name in decontamination.NAMES:
        (rule,) = decontamination.rules_of(name, ("all",))
        assert isinstance(rule.threshold, (int, float))
        found[name] = signals[rule.signal] > rule.threshold
    return found


def compare_scores(found: Mapping[str, Any], samples: Path) -> list[tuple[str, str, str, int, float, int, float]]:
    """Scores of a model on the questions that the run has seen and on the others.

    Args:
        found: what `contamination` returns.
        samples: what `altiplano evaluate --samples` wrote.

    Returns:
        By task, metric and measure: number and mean of contaminated questions, and of the others.

    Raises:
        ValueError: no task of the file is a set of the run.
    """
    questions = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    by_set = {name: [row for row in questions if row["task"] == name] for name in found["sets"]}
    if not any(by_set.values()):
        tasks = ", ".join(sorted({row["task"] for row in questions})) or "(none)"
        raise ValueError(
            f"{samples}: its tasks are {tasks}, but the evaluation sets are {', '.join(found['sets'])}: a set must be "
            "called as its task"
        )
    rows = []
    for name, own in by_set.items():
        for metric in sorted({metric for row in own for metric in row["metrics"]}):
            for variant in decontamination.NAMES:
                dirty = {row["item"] for row in found["items"] if row["set"] == name and row[variant]}
                values: tuple[list[float], list[float]] = ([], [])
                for row in own:
                    values[str(row["item"]) not in dirty].append(float(row["metrics"][metric]))
                means = [float(np.mean(part)) if part else float("nan") for part in values]
                rows.append((name, metric, variant, len(values[0]), means[0], len(values[1]), means[1]))
    return rows


EXAMPLES = """examples:
  altiplano data evaluation-set arc_easy hellaswag --output sets
      lm-eval's tasks as evaluation sets; name them under `decontamination` in the data's configuration
  altiplano contamination --config configs/train/demo.yaml
      items that the newest checkpoint has seen, by set; each with documents and steps in contamination.json
  altiplano contamination --config configs/train/demo.yaml --samples runs/demo/samples.jsonl
      also the scores that `altiplano evaluate --samples` wrote, with these items and without"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano contamination",
        description="Which training steps saw which items of evaluation sets.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="the run's YAML file, or its config.resolved.yaml")
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the newest)")
    parser.add_argument("--samples", type=Path, help="scores by question, from `altiplano evaluate --samples`")
    parser.add_argument("overrides", nargs="*", help="settings by dotted name")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 when something does not fit."""
    given = make_parser().parse_intermixed_args(arguments)
    try:
        config = load_config(TrainConfig, given.config, given.overrides)
        found = contamination(config, given.step)
        scores = [] if given.samples is None else compare_scores(found, given.samples)
    except (ValueError, OSError) as error:
        print(f"contamination: {error}", file=sys.stderr)
        return 2
    names = [name.removeprefix("decontamination_") for name in decontamination.NAMES]
    rows = [
        (
            *(name, row["items"], row["too_short"], row["seen"]),
            *(row[variant] for variant in decontamination.NAMES),
            row["first_step"],
        )
        for name, row in found["sets"].items()
    ]
    titles = ("set", "items", "too short to find", "seen in part", *names, "first step")
    summary_table(f"items seen until step {found['step']}", rows, titles)
    if scores:
        found["scores"] = [
            dict(zip(("task", "metric", "measure", "seen", "mean_seen", "others", "mean_others"), row, strict=True))
            for row in scores
        ]
        titles = ("task", "metric", "measure", "contaminated", "their mean", "others", "their mean")
        shown = [(task, metric, name.removeprefix("decontamination_"), *rest) for task, metric, name, *rest in scores]
        summary_table("scores", shown, titles)
    path = config.output / RESULT_FILE
    write_json(path, found)
    print(f"each item with its documents and steps: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
