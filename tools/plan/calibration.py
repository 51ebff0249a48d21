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
from typing import Any

import yaml

from foundation.atomic_files import write_text
from pretrain.config import TrainConfig
from tools.plan.cost import Layout, StepTime, block_weights


@dataclass(frozen=True)
class Computation:
    """Seconds of one rank of a tensor degree.

    Attributes:
        block: forward and backward pass of a block, for a micro-batch.
        rest: embedding, head and loss, for a micro-batch.
        block_update: update of a block's weights.
        rest_update: update of the other weights, and what a step costs besides.
    """

    block: float
    rest: float
    block_update: float
    rest_update: float


@dataclass(frozen=True)
class Collective:
    """Seconds on the clock, and of a rank's processor, by bytes."""

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    processor: tuple[float, ...]

    def at(self, size: float) -> tuple[float, float]:
        """Seconds on the clock and of the processor for `size` bytes: linear between two sizes, and beyond the last."""
        pairs = list(zip(self.sizes, self.seconds, self.processor, strict=True))
        for low, high in pairwise(pairs):
            if size <= high[0] or high is pairs[-1]:
                share = (size - low[0]) / (high[0] - low[0])
                return tuple(max(0.0, a + share * (b - a)) for a, b in zip(low[1:], high[1:], strict=True))  # type: ignore[return-value]
        raise AssertionError("two sizes at least")


@dataclass(frozen=True)
class Calibration:
    """Measured speeds of a machine for one model.

    Attributes:
        machine: processor or GPU, for people.
        cores: processors that the processes share; 0: each has a device of its own.
        settings: what the measurement holds for, by dotted name.
        computation: by tensor degree.
        all_reduce, all_gather, send: by number of ranks; a send has two.
    """

    machine: str
    cores: int
    settings: dict[str, Any]
    computation: dict[int, Computation]
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
            computation={int(degree): Computation(**found) for degree, found in values["computation"].items()},
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


def calibrated_time(calibration: Calibration, config: TrainConfig, layout: Layout, stages: Sequence[int]) -> StepTime:
    """Seconds of a training step on the measured machine.

    Args:
        stages: blocks of each stage.

    Raises:
        ValueError: a group is larger than those that were measured.
    """
    model, degree = config.model, layout.tensor
    computation = _measured(calibration.computation, degree, "tensor degree")
    size = 2 if config.precision == "bf16" else 4
    residual = size * layout.micro_batch_size * config.data.sequence_length * model.hidden_size
    tensor, tensor_work = 0.0, 0.0
    if degree > 1:
        tensor, tensor_work = _measured(calibration.all_reduce, degree, "tensor degree").at(residual)
    sent, sent_work = calibration.send[2].at(residual) if layout.pipeline > 1 else (0.0, 0.0)

    last = len(stages) - 1
    ranks, updates, work = [], [], 0.0
    for stage, blocks in enumerate(stages):
        ends = (stage == 0) + (stage == last)
        rest = computation.rest * (stage == last)
        sums = 4 * blocks + ends
        sends = 2 * ((stage > 0) + (stage < last))
        ranks.append(
            StepTime(products=blocks * computation.block + rest, tensor=sums * tensor, pipeline=sends * sent / 2)
        )
        update = blocks * computation.block_update + computation.rest_update * max(ends, 1) / 2
        weights = blocks * block_weights(model) + ends * model.padded_vocabulary_size(degree) * model.hidden_size
        data, data_work = _summed_gradients(calibration, layout, weights / degree)
        updates.append(StepTime(optimizer=update, data=data))
        micro_work = blocks * computation.block + rest + sums * tensor_work + sends * sent_work
        work += degree * layout.data * (layout.micro_batches * micro_work + update + data_work)
    slowest = max(ranks, key=lambda time: time.total)
    others = sum(time.total for time in ranks) - slowest.total
    time = slowest * layout.micro_batches + StepTime(bubble=others) + max(updates, key=lambda update: update.total)
    if calibration.cores and work / calibration.cores > time.total:
        # Processors are the bottleneck: there is no bubble, and all else takes its share of them.
        busy = StepTime(**{**asdict(time), "bubble": 0.0})
        return busy * (work / calibration.cores / busy.total)
    return time


def _summed_gradients(calibration: Calibration, layout: Layout, weights: float) -> tuple[float, float]:
    """Seconds in which gradients in fp32 are summed over the data axis and weights gathered, and of the processor."""
    if layout.data == 1:
        return 0.0, 0.0
    summed = _measured(calibration.all_reduce, layout.data, "data degree").at(4 * weights)
    gathered = _measured(calibration.all_gather, layout.data, "data degree").at(4 * weights)
    return summed[0] + gathered[0], summed[1] + gathered[1]


def _measured(found: dict[int, Any], ranks: int, what: str) -> Any:
    if ranks not in found:
        raise ValueError(f"{what} {ranks}: measured were {', '.join(map(str, found))}; calibrate with more --devices")
    return found[ranks]
