"""The data of a run: its train batches and its held-out samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.config import TrainConfig, check_vocabulary
from pretrain.data.batches import Batches, HeldOutPart
from pretrain.data.loader import SampleReader, training_samples
from pretrain.data.objective import Objective
from pretrain.data.skips import SkippedRanges
from pretrain.topology import Topology


@dataclass(frozen=True)
class HeldOut:
    """Held-out samples for evaluations, the same ones each time, by dataset."""

    batches: Batches
    parts: list[HeldOutPart]


@dataclass(frozen=True)
class RunData:
    """Batches of this rank.

    Attributes:
        held_out: None when no dataset of the mixture has a held-out part.
    """

    batches: Batches
    held_out: HeldOut | None

    @property
    def training(self) -> SampleReader:
        """The train samples."""
        return self.batches.reader

    def skip(self, *ranges: Sequence[tuple[int, int]]) -> None:
        """Leave these half-open ranges of samples out of training, instead of those left out before."""
        self.training.skipped = SkippedRanges([pair for group in ranges for pair in group])


def open_data(config: TrainConfig, topology: Topology, rank: int) -> RunData:
    """Open the token files and plan the batches of a rank.

    Raises:
        ValueError: the token files are missing, damaged or too short, or do not fit the model or the objective.
    """
    training = training_samples(config)
    mixture, length = training.mixture, config.data.sequence_length
    check_vocabulary(config, mixture.vocabulary_size)
    _check_objective(config, training)
    batches = _batches(config, topology, rank, training)
    if not any(entry.heldout for entry in mixture.datasets):
        return RunData(batches, None)
    held_out = _batches(config, topology, rank, SampleReader(mixture, length, config.seed, "heldout"))
    count = config.evaluation.batches * config.batch.global_batch_size
    return RunData(batches, HeldOut(held_out, held_out.held_out_parts(count)))


def _check_objective(config: TrainConfig, training: SampleReader) -> None:
    """Refuse an objective that the token files do not allow.

    Raises:
        ValueError: names the setting and the dataset.
    """
    objective, path = config.objective, training.mixture.path
    if objective.kind == "causal":
        packed = [entry.name for entry in training.mixture.datasets if entry.packed]
        if packed and not objective.separate_documents:
            raise ValueError(
                f"objective.separate_documents: must be true for {path}: dataset {packed[0]!r} is packed, and "
                "conversations in a pack must not attend to one another"
            )
        return
    if training.is_packed:
        return
    if training.has_mask_files:
        raise ValueError(
            f"objective.kind: {objective.kind} cannot be trained on {path}: its token files have loss masks, which "
            "mark the tokens whose prediction counts; only causal samples predict every token, and only packs of "
            "conversations (tokens.pack) have a question to read and an answer to predict"
        )
    if objective.weighting == "document":
        raise ValueError(
            f"objective.weighting: document needs kind causal or packs of conversations; samples of kind "
            f"{objective.kind} cut documents at random: use token or sample"
        )


def _batches(config: TrainConfig, topology: Topology, rank: int, reader: SampleReader) -> Batches:
    model = config.model
    objective = Objective(
        config.objective,
        config.seed,
        reader.split,
        two_dimensional=model.positions == "learned_2d",
        dropout=config.has_dropout,
    )
    return Batches(reader, config.batch.micro_batch_size, topology.coordinate(rank).data, topology.data, objective)
