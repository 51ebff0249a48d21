"""Teach a trained model another language: `altiplano adapt --config FILE`.

Its vocabulary gets pieces of the new language, and the model rows for them (Cui et al. 2023, arXiv:2304.08177, section
3.1). Then it is trained in stages on text of the new language and of those that it knows: first, for example, the
embeddings alone, then adapters as well. Bits per byte of held-out text are measured before, after the extension, and
after each stage; they can be compared between vocabularies. The settings of every step are written to the output, and
each command is shown. Run again, what is done is skipped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console

from data_prep.config import DataConfig, SourceConfig, TokenizerConfig
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import load_manifest
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.extend import extend_tokenizer, merge_vocabularies, read_model
from data_prep.tokenizer.kept_documents import id_fraction, read_kept
from data_prep.tokenizer.sentence_piece import save_sentencepiece_bpe, train_sentencepiece_bpe
from foundation.atomic_files import whole_folder, write_json
from foundation.configuration import ConfigError, Settings, flat_settings, load_config, write_yaml
from foundation.progress import summary_table
from pretrain.checkpoint.layout import complete_checkpoints, step_of
from pretrain.checkpoint.single import load_single_process_model
from pretrain.checkpoint.whole import verified_weights
from pretrain.config import ModelConfig, TrainConfig
from tools.bits_per_byte import bits_per_byte
from tools.evaluate import held_out_texts
from tools.steps import Steps, altiplano

RESULT_FILE = "bits_per_byte.json"
START_FILE = "start.json"
"""Digests and settings that the extended tokenizer and model are made of."""
_FIXED_PIECES = 259
"""Entries of a SentencePiece vocabulary that are not learnt: 256 bytes, and those for unknown, begin and end."""

EXAMPLES = """examples:
  altiplano adapt --config configs/adapt/chinese.yaml
  altiplano adapt --config configs/adapt/chinese.yaml pieces=20000 model=imported/llama-7b tokenizer=models/llama-7b"""


class AdaptConfig(Settings):
    """Adaptation of a model to another language."""

    output: Path
    """Folder for everything that is written."""
    model: Path
    """Checkpoint to start from: that of a run, or an imported one."""
    tokenizer: Path
    """Folder of its tokenizer, with `tokenizer.model`."""
    pieces: int = Field(ge=300)
    """Number of pieces that its vocabulary gets; those that it has already do not count."""
    character_coverage: float = Field(default=0.9995, gt=0.9, le=1)
    """Share of the new language's characters that are pieces; others are spelled by their bytes. SentencePiece's README
    has this value for languages of many characters."""
    new: tuple[SourceConfig, ...] = Field(min_length=1)
    """Sources of the new language: the pieces are learnt from them."""
    old: tuple[SourceConfig, ...] = Field(min_length=1)
    """Sources of the languages that the model knows, so that it does not forget them."""
    data: dict[str, Any] = Field(default_factory=dict)
    """Other settings of data preparation, such as `workers`, `language` or `tokens`."""
    train: dict[str, Any]
    """Settings of training that all stages share; the model, its weights and the data are given by the rest."""
    stages: tuple[dict[str, Any], ...] = Field(min_length=1)
    """Settings of training of each stage, over the shared ones; each starts from the weights that the one before has
    trained."""
    documents: int = Field(default=50, gt=0)
    """Number of held-out documents of each source that bits per byte are measured on."""


class Adaptation:
    """The steps, and where each leaves its outputs."""

    def __init__(self, config: AdaptConfig) -> None:
        self._config = config
        self.tokenizer, self.extended = config.output / "tokenizer", config.output / "extended"
        self.data_file = config.output / "data.yaml"
        self.mixture = config.output / "data" / "tokens" / "mixture.yaml"

    def stage_file(self, stage: int) -> Path:
        return self._config.output / f"stage{stage}.yaml"

    def stage_output(self, stage: int) -> Path:
        return self._config.output / f"stage{stage}"

    def write_settings(self) -> list[TrainConfig]:
        """Write the settings of data preparation and of each stage; returns those of the stages.

        Raises:
            ConfigError: one of them is invalid.
            ValueError: the checkpoint or the tokenizer cannot be used, or they do not belong together.
        """
        config = self._config
        weights = verified_weights(config.model)
        model = weights.model
        size = ReferenceEncoder(config.tokenizer).vocabulary_size
        if model.vocabulary_size != size:
            raise ValueError(
                f"tokenizer: {config.tokenizer} has {size} entries, {config.model} {model.vocabulary_size}"
            )
        read_model(config.tokenizer)
        config.output.mkdir(parents=True, exist_ok=True)
        self._refuse_other_start(weights.reader.digest)
        sources = [source.model_dump(mode="json", exclude_unset=True) for source in (*config.new, *config.old)]
        derived = {
            "output": str(config.output / "data"),
            "tokenizer": {"path": str(self.tokenizer)},
            "sources": sources,
        }
        _refuse(config.data, derived, "data")
        write_yaml(self.data_file, {**config.data, **derived})
        load_config(DataConfig, self.data_file)
        extended = ModelConfig.model_validate({**model.model_dump(), "vocabulary_size": size + config.pieces})
        stages = []
        for number, changes in enumerate(config.stages, start=1):
            start = self.extended if number == 1 else self.stage_output(number - 1) / "checkpoints"
            derived = {
                "output": str(self.stage_output(number)),
                "model": extended.model_dump(mode="json", exclude_defaults=True),
                "initial_weights": str(start),
            }
            settings = _merged(config.train, changes)
            _refuse(settings, derived, f"stages.{number - 1}")
            settings["data"] = {**settings.get("data", {}), "mixture": str(self.mixture)}
            write_yaml(self.stage_file(number), {**derived, **settings})
            stages.append(load_config(TrainConfig, self.stage_file(number)))
        return stages

    def _refuse_other_start(self, digest: str) -> None:
        """Note what the extended tokenizer and model are made of; refuse to go on from those of something else."""
        config, path = self._config, self._config.output / START_FILE
        start = {
            "model": digest,
            "tokenizer": hashlib.sha256(read_model(config.tokenizer)).hexdigest(),
            "pieces": config.pieces,
            "new": [source.model_dump(mode="json") for source in config.new],
        }
        if not path.is_file():
            write_json(path, start)
        before, now = flat_settings(json.loads(path.read_text(encoding="utf-8"))), flat_settings(start)
        changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
        if changed:
            raise ValueError(
                f"{changed[0]}: {config.output} was begun with {before.get(changed[0])!r}, now it is "
                f"{now.get(changed[0])!r}; restore it, or name another output"
            )

    def learn_pieces(self) -> None:
        """Learn the pieces from the kept documents of the new language, and write the extended tokenizer.

        Raises:
            TokenizerError: there is too little text for so many pieces.
        """
        config = self._config
        old = read_model(config.tokenizer)
        size, added = config.pieces + _FIXED_PIECES, -1  # not below the least size of a tokenizer
        while added < config.pieces:  # one more piece is a new one or not, so that this ends with the number exactly
            settings = TokenizerConfig(
                kind="sentencepiece_bpe", vocabulary_size=size, character_coverage=config.character_coverage
            )
            model = train_sentencepiece_bpe(self._new_texts(), settings)
            added = len(merge_vocabularies(old, model).added)
            print(f"a vocabulary of {size:,} has {added:,} of {config.pieces:,} new pieces", flush=True)
            size += config.pieces - added
        save_sentencepiece_bpe(model, config.output / "pieces")
        with whole_folder(self.tokenizer) as folder:
            extend_tokenizer(config.tokenizer, config.output / "pieces", folder)
        print(f"{self.tokenizer}: {added:,} pieces are new")

    def _new_texts(self) -> Iterator[str]:
        """Kept documents of the new language without those that will be held out."""
        data = load_config(DataConfig, self.data_file)
        run = RunDirectory(data.output)
        names = {source.name for source in self._config.new}

        def is_trained_on(identity: str, language: str) -> bool:
            return id_fraction(data.seed, "heldout", identity) >= data.tokens.heldout_share

        for shard in load_manifest(run).shards:
            if shard.source in names:
                yield from (document.text for document in read_kept(run, shard.name, is_trained_on))

    def measure(self) -> dict[str, dict[str, float]]:
        """Bits per byte of each source's held-out documents, by model, in the order in which they were made."""
        config = self._config
        models = {
            "before": (config.model, config.tokenizer),
            "extended": (self.extended, self.tokenizer),
            **{
                f"stage {number}": (self.stage_output(number) / "checkpoints", self.tokenizer)
                for number in range(1, len(config.stages) + 1)
            },
        }
        texts = held_out_texts(self.mixture, config.documents)
        found: dict[str, dict[str, float]] = {}
        for name, (checkpoint, folder) in models.items():
            model, encoder = load_single_process_model(checkpoint), ReferenceEncoder(folder)
            context = load_config(TrainConfig, self.stage_file(1)).data.sequence_length
            found[name] = {
                source: bits_per_byte(model, encoder, documents, context) for source, documents in texts.items()
            }
        return found


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Settings with changes, sections merged key by key."""
    result = dict(base)
    for name, value in changes.items():
        before = result.get(name)
        result[name] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return result


def _refuse(given: dict[str, Any], derived: dict[str, Any], where: str) -> None:
    for name in derived:
        if name in given:
            raise ConfigError(f"{where}.{name}: has no effect: it follows from the other settings; leave it out")


def adapt(config: AdaptConfig) -> dict[str, dict[str, float]]:
    """Run all steps; returns bits per byte by model and source.

    Raises:
        ValueError: something does not fit.
    """
    console = Console()
    step, work = Steps(console), Adaptation(config)
    stages = work.write_settings()
    data = [*altiplano(), "data", "run", "--config", str(work.data_file)]
    if work.tokenizer.is_dir():
        step.skip("1. pieces of the new language", f"{work.tokenizer} is there")
    else:
        step.run("1. pieces of the new language", [*data, "--until", "decide"])
        work.learn_pieces()
    if work.extended.is_dir():
        step.skip("2. rows for them", f"{work.extended} is there")
    else:
        command = [*altiplano(), "checkpoint", "extend", str(config.model), str(config.tokenizer)]
        step.run("2. rows for them", [*command, str(work.tokenizer), str(work.extended)])
    step.run("3. token files of both languages", data)
    for number, stage in enumerate(stages, start=1):
        title = f"{3 + number}. stage {number}: {_what(stage)}"
        newest = complete_checkpoints(stage.output / "checkpoints")[:1]
        if newest and stage.schedule.total_steps is not None and step_of(newest[0]) >= stage.schedule.steps:
            step.skip(title, f"{newest[0]} is its last step")
        else:
            step.run(title, [*altiplano(), "train", "--config", str(work.stage_file(number))])
    step.title(f"{4 + len(stages)}. what became of it")
    found = work.measure()
    write_json(config.output / RESULT_FILE, {"bits_per_byte": found, "documents": config.documents})
    rows = [[name, *(f"{value:.3f}" for value in by_source.values())] for name, by_source in found.items()]
    summary_table("bits per byte of held-out text", rows, ["", *found["before"]])
    last = work.stage_output(len(stages)) / "checkpoints"
    console.print(f"Next: altiplano convert to-hf {last} {config.output / 'hf'}", soft_wrap=True)
    return found


def _what(stage: TrainConfig) -> str:
    if not stage.is_partial:
        return "all weights"
    adapters = [f"adapters of rank {stage.adapter.rank}"] if stage.adapter else []
    return " and ".join([*adapters, *(stage.trainable or ())])


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano adapt",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="settings, see configs/adapt/chinese.yaml")
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE", help="other values of single settings")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = make_parser().parse_args(arguments)
    try:
        adapt(load_config(AdaptConfig, given.config, given.overrides))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
