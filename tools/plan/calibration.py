"""What was measured on a machine, and the seconds of a step that follow from it.

A step takes what its slowest rank computes and waits for. Where processes share processors, it takes at least the work
of all of them divided by the processors: a stage that waits for another leaves its processor to it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from foundation.atomic_files import write_text
from pretrain.config import TrainConfig
from tools.plan.cost import Layout, StepTime, block_weights


class Spent(NamedTuple):
    """Seconds on the clock, and of a rank's processor."""

    clock: float
    processor: float


@dataclass(frozen=True)
class Computation:
    """What one rank of a tensor degree spends, the sums over its tensor axis included.

    Attributes:
        processes: how many computed at the same time, this rank among them.
        block: forward and backward pass of a block, for a micro-batch.
        rest: embedding, head and loss, for a micro-batch.
        block_update: update of a block's weights.
        rest_update: update of the other weights, and what a step costs besides.
    """

    processes: int
    block: Spent
    rest: Spent
    block_update: Spent
    rest_update: Spent

    def mixed(self, other: Computation, share: float) -> Computation:
        """`share` of the way to `other`."""

        def between(ours: Spent, theirs: Spent) -> Spent:
            return Spent(*(a + share * (b - a) for a, b in zip(ours, theirs, strict=True)))

        pairs = [(getattr(self, name), getattr(other, name)) for name in PARTS]
        return Computation(self.processes, *(between(*pair) for pair in pairs))


PARTS = ("block", "rest", "block_update", "rest_update")
"""Parts of a `Computation`."""


class NotMeasured(ValueError):
    """A layout whose time does not follow from what was measured."""


@dataclass(frozen=True)
class Collective:
    """Seconds on the clock, and of a rank's processor, by bytes."""

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    processor: tuple[float, ...]

    def at(self, size: float) -> Spent:
        """What `size` bytes take: linear between two measured sizes, and beyond the last."""
        pairs = list(zip(self.sizes, self.seconds, self.processor, strict=True))
        for low, high in pairwise(pairs):
            if size <= high[0] or high is pairs[-1]:
                share = (size - low[0]) / (high[0] - low[0])
                return Spent(*(max(0.0, a + share * (b - a)) for a, b in zip(low[1:], high[1:], strict=True)))
        raise AssertionError("two sizes at least")


@dataclass(frozen=True)
class Calibration:
    """Measured speeds of a machine for one model.

    Attributes:
        machine: processor or GPU, for people.
        cores: processors that the processes share; 0: each has a device of its own.
        settings: what the measurement holds for, by dotted name.
        computation: by tensor degree, by rising number of processes.
        all_reduce, all_gather, send: by number of ranks; a send has two.
    """

    machine: str
    cores: int
    settings: dict[str, Any]
    computation: dict[int, list[Computation]]
    all_reduce: dict[int, Collective]
    all_gather: dict[int, Collective]
    send: dict[int, Collective]


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Settings that a calibration depends on."""
    return {
        "model": config.model.model_dump(mode="json", exclude={"layers"}),
        "data.sequence_length": config.data.sequence_length,
        "batch.micro_batch_size": config.batch.micro_batch_size,
        "precision": config.precision,
        "recomputation": config.recomputation,
        "compile": config.compile,
    }


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a file that `read_calibration` reads."""
    write_text(path, yaml.safe_dump(json.loads(json.dumps(asdict(calibration))), sort_keys=False))


def read_calibration(path: Path, config: TrainConfig) -> Calibration:
    """Read what `calibrate` measured.

    Raises:
        ValueError: the file is none of its, or was measured with other settings.
    """
    try:
        values = yaml.safe_load(path.read_text())
        calibration = Calibration(
            machine=values["machine"],
            cores=values["cores"],
            settings=values["settings"],
            computation={
                int(degree): list(map(_computation, found)) for degree, found in values["computation"].items()
            },
            **{
                name: {
                    int(ranks): Collective(*(tuple(found[part]) for part in ("sizes", "seconds", "processor")))
                    for ranks, found in values[name].items()
                }
                for name in ("all_reduce", "all_gather", "send")
            },
        )
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no calibration ({error!r}); make one with --calibrate") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; make one with --calibrate") from None
    wanted = json.loads(json.dumps(settings_of(config)))
    differing = [name for name in wanted if wanted[name] != calibration.settings.get(name)]
    if differing:
        raise ValueError(
            f"{path}: measured with another {', '.join(differing)} than the run has; calibrate again with its settings"
        )
    return calibration


def _computation(found: dict[str, Any]) -> Computation:
    return Computation(found["processes"], *(Spent(*found[name]) for name in PARTS))


def calibrated_time(calibration: Calibration, config: TrainConfig, layout: Layout, stages: Sequence[int]) -> StepTime:
    """Seconds of a training step on the measured machine.

    Args:
        stages: blocks of each stage.

    Raises:
        NotMeasured: a group is larger than those that were measured.
    """
    model, degree = config.model, layout.tensor
    computation = _beside(_measured(calibration.computation, degree, "tensor degree"), layout.devices)
    size = 2 if config.precision == "bf16" else 4
    residual = size * layout.micro_batch_size * config.data.sequence_length * model.hidden_size
    tensor = _measured(calibration.all_reduce, degree, "tensor degree").at(residual).clock if degree > 1 else 0.0
    sent = calibration.send[2].at(residual) if layout.pipeline > 1 else Spent(0.0, 0.0)

    last = len(stages) - 1
    ranks, updates, work = [], [], 0.0
    for stage, blocks in enumerate(stages):
        ends = (stage == 0) + (stage == last)
        computed = [
            blocks * block + rest * (stage == last)
            for block, rest in zip(computation.block, computation.rest, strict=True)
        ]
        sums = min((4 * blocks + ends) * tensor, computed[0])
        sends = 2 * ((stage > 0) + (stage < last))
        ranks.append(StepTime(products=computed[0] - sums, tensor=sums, pipeline=sends * sent.clock / 2))
        update = [
            blocks * block + rest * max(ends, 1) / 2
            for block, rest in zip(computation.block_update, computation.rest_update, strict=True)
        ]
        weights = blocks * block_weights(model) + ends * model.padded_vocabulary_size(degree) * model.hidden_size
        data = _summed_gradients(calibration, layout, weights / degree)
        updates.append(StepTime(optimizer=update[0], data=data.clock))
        micro_work = computed[1] + sends * sent.processor
        work += degree * layout.data * (layout.micro_batches * micro_work + update[1] + data.processor)
    slowest = max(ranks, key=lambda time: time.total)
    others = sum(time.total for time in ranks) - slowest.total
    time = slowest * layout.micro_batches + StepTime(bubble=others) + max(updates, key=lambda update: update.total)
    if calibration.cores and work / calibration.cores > time.total:
        # Processors are the bottleneck: there is no bubble, and all else takes its share of them.
        busy = StepTime(**{**asdict(time), "bubble": 0.0})
        return busy * (work / calibration.cores / busy.total)
    return time


def _beside(measured: Sequence[Computation], processes: int) -> Computation:
    """What a rank spends beside as many others as `processes` are: linear between two measured numbers."""
    for low, high in pairwise(measured):
        if processes < high.processes:
            return low.mixed(high, max(0.0, (processes - low.processes) / (high.processes - low.processes)))
    return measured[-1]


def _summed_gradients(calibration: Calibration, layout: Layout, weights: float) -> Spent:
    """What summing gradients in fp32 over the data axis and gathering weights takes."""
    if layout.data == 1:
        return Spent(0.0, 0.0)
    summed = _measured(calibration.all_reduce, layout.data, "data degree").at(4 * weights)
    gathered = _measured(calibration.all_gather, layout.data, "data degree").at(4 * weights)
    return Spent(summed.clock + gathered.clock, summed.processor + gathered.processor)


def _measured(found: dict[int, Any], ranks: int, what: str) -> Any:
    if ranks not in found:
        raise NotMeasured(f"{what} {ranks}: measured were {', '.join(map(str, found))}; calibrate with more --devices")
    return found[ranks]
