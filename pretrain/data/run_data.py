"""The data of a run: its train batches and its held-out samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.config import TrainConfig, check_vocabulary
from pretrain.data.batches import Batches, HeldOutPart
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import load_mixture
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
    mixture = load_mixture(config.data.mixture)
    check_vocabulary(config, mixture.vocabulary_size)
    length = config.data.sequence_length
    training = SampleReader(mixture, length, config.seed, phases=config.data.phases)
    if training.has_loss_masks and config.objective.kind != "causal":
        raise ValueError(
            f"objective.kind: {config.objective.kind} cannot be trained on {mixture.path}: its token files have loss "
            "masks, which mark the tokens whose prediction counts, and only causal samples predict every token"
        )
    batches = _batches(config, topology, rank, training)
    if not any(entry.heldout for entry in mixture.datasets):
        return RunData(batches, None)
    held_out = _batches(config, topology, rank, SampleReader(mixture, length, config.seed, "heldout"))
    count = config.evaluation.batches * config.batch.global_batch_size
    return RunData(batches, HeldOut(held_out, held_out.held_out_parts(count)))


def _batches(config: TrainConfig, topology: Topology, rank: int, reader: SampleReader) -> Batches:
    model = config.model
    objective = Objective(
        config.objective,
        config.seed,
        reader.split,
        two_dimensional=model.positions == "learned_2d",
        dropout=model.has_dropout,
    )
    return Batches(reader, config.batch.micro_batch_size, topology.coordinate(rank).data, topology.data, objective)
