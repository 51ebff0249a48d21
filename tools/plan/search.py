"""The fastest layouts that fit: degrees, micro-batch, recomputation, sequence and context parallelism."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from foundation.configuration import load_config
from foundation.progress import Progress
from pretrain.config import TrainConfig, check_world_size
from pretrain.families.mapping import parameter_count
from tools.plan.calibration import NotMeasured
from tools.plan.cost import Layout, Recomputation, StepTime, stages_of, step_time
from tools.plan.hardware import Hardware
from tools.plan.memory import LayerCost, Memory, layer_costs, memory_of

FEWEST_TOKENS = 4096
"""Tokens of a sample that each rank of the context axis has at least. Llama 3 has 8,192, of sequences of 131,072
(arXiv:2407.21783, table 4)."""
LARGEST_MICRO_BATCH = 16
"""Samples: larger micro-batches make the pipeline's bubble longer and products hardly faster."""
Timer = Callable[[TrainConfig, Layout, Sequence[int]], StepTime]
"""Seconds of a step of a run under a layout whose stages have so many blocks. Raises NotMeasured: not known."""
RECOMPUTATIONS: tuple[Recomputation, ...] = ("none", "selective", "full")


@dataclass(frozen=True)
class Candidate:
    """A layout, its step, and its memory.

    Attributes:
        config: the run with this layout.
    """

    config: TrainConfig
    layout: Layout
    time: StepTime
    memory: Memory

    @property
    def settings(self) -> list[str]:
        """What to give to `altiplano train`."""
        layout = self.layout
        degrees = [f"parallel.tensor={layout.tensor}", f"parallel.pipeline={layout.pipeline}"]
        if layout.context > 1:
            degrees.append(f"parallel.context={layout.context}")
        if layout.tensor > 1:
            degrees.append(f"parallel.sequence={str(layout.sequence).lower()}")
        return [*degrees, f"batch.micro_batch_size={layout.micro_batch_size}", f"recomputation={layout.recomputation}"]


@dataclass(frozen=True)
class Found:
    """Result of a search.

    Attributes:
        best: the fastest layouts that fit, the fastest first.
        too_large: layouts that are faster than the last of `best` and do not fit, the fastest first; if none fits, all,
            the smallest first.
        tried: number of layouts.
    """

    best: list[Candidate]
    too_large: list[Candidate]
    tried: int


def search(
    path: Path,
    overrides: Sequence[str],
    devices: int,
    per_node: int,
    memory_bytes: float,
    timer: Timer,
    wanted: int = 3,
) -> Found:
    """The `wanted` fastest layouts of `devices` devices that fit.

    What `overrides` sets is not varied, and layouts of which `timer` does not know the time are left out. Memory is
    counted only for layouts that are fast enough to be among the best.

    Raises:
        ValueError: the configuration is wrong whatever the layout is.
    """
    load_config(TrainConfig, path, overrides)
    timed = sorted(
        ((time, config, layout) for config, layout, time in _timed(path, overrides, devices, per_node, timer)),
        key=lambda item: item[0].total,
    )
    best: list[Candidate] = []
    too_large: list[Candidate] = []
    costs: dict[tuple[object, ...], list[LayerCost]] = {}
    with Progress("memory, the fastest first", len(timed), "layouts") as progress:
        for time, config, layout in timed:
            key = layout.tensor, layout.context, layout.sequence, layout.micro_batch_size, layout.recomputation
            if key not in costs:
                costs[key] = layer_costs(config)
            candidate = Candidate(config, layout, time, memory_of(config, layout.data, costs[key]))
            fits = candidate.memory.total <= memory_bytes
            (best if fits else too_large).append(candidate)
            progress.advance()
            if len(best) == wanted:
                break
    if not best:
        too_large.sort(key=lambda candidate: candidate.memory.total)
    return Found(best, too_large, len(timed))


def timer_of(hardware: Hardware) -> Timer:
    """Times from the speeds of named hardware."""

    def time(config: TrainConfig, layout: Layout, stages: Sequence[int]) -> StepTime:
        share = config.trained_count / parameter_count(config.model) if config.is_partial else 1.0
        length = config.data.sequence_length
        return step_time(config.model, length, layout, hardware, trained_share=share, stages=stages)

    return time


def _timed(
    path: Path, overrides: Sequence[str], devices: int, per_node: int, timer: Timer
) -> Iterator[tuple[TrainConfig, Layout, StepTime]]:
    for config, data in _degrees(path, overrides, devices, per_node):
        parallel = config.parallel
        whole = Layout(parallel.tensor, parallel.pipeline, data, 1, 1, context=parallel.context)
        stages = stages_of(config.model, config.data.sequence_length, whole)
        for micro in _micro_batches(config, overrides, data):
            for recomputation in RECOMPUTATIONS:
                if _is_set("recomputation", overrides) and recomputation != config.recomputation:
                    continue
                changed = config.model_copy(
                    update={
                        "recomputation": recomputation,
                        "batch": config.batch.model_copy(update={"micro_batch_size": micro}),
                    }
                )
                layout = Layout(
                    parallel.tensor,
                    parallel.pipeline,
                    data,
                    micro,
                    changed.accumulation_steps(data),
                    parallel.sequence,
                    recomputation,
                    context=parallel.context,
                )
                try:
                    yield changed, layout, timer(changed, layout, stages)
                except NotMeasured:
                    continue


def _degrees(path: Path, overrides: Sequence[str], devices: int, per_node: int) -> Iterator[tuple[TrainConfig, int]]:
    """Configurations with the degrees that the model and the batch allow, tensor groups within one node."""
    varied = ["parallel.data=null", "parallel.preferred=[]"]
    if not _is_set("batch.micro_batch_size", overrides):
        varied.append("batch.micro_batch_size=1")
    longest = load_config(TrainConfig, path, overrides).data.sequence_length // FEWEST_TOKENS
    most_context = devices if _is_set("parallel.context", overrides) else max(longest, 1)
    for tensor, context, pipeline in _products(devices, min(devices, per_node), most_context):
        degrees = {
            "parallel.tensor": str(tensor),
            "parallel.pipeline": str(pipeline),
            "parallel.context": str(context),
            "parallel.sequence": str(tensor > 1).lower(),
        }
        given = [f"{name}={value}" for name, value in degrees.items() if not _is_set(name, overrides)]
        try:
            config = load_config(TrainConfig, path, [*varied, *given, *overrides])
            data = check_world_size(config, devices)
        except ValueError:
            continue  # heads, layers, the sequence or the batch do not divide
        parallel = config.parallel
        if (parallel.tensor, parallel.context, parallel.pipeline) == (tensor, context, pipeline):
            yield config, data


def _products(devices: int, most_tensor: int, most_context: int) -> Iterator[tuple[int, int, int]]:
    """Degrees of tensor, context and pipeline whose product divides `devices`."""
    for tensor in _divisors(devices, most_tensor):
        for context in _divisors(devices // tensor, most_context):
            rest = devices // tensor // context
            for pipeline in _divisors(rest, rest):
                yield tensor, context, pipeline


def _micro_batches(config: TrainConfig, overrides: Sequence[str], data: int) -> list[int]:
    """Micro-batch sizes that divide every batch of the run."""
    if _is_set("batch.micro_batch_size", overrides):
        return [config.batch.micro_batch_size]
    sizes = [config.batch.global_batch_size]
    if config.batch.ramp_up is not None:
        sizes += [config.batch.ramp_up.start, config.batch.ramp_up.increment]
    micro = [1]
    while micro[-1] < LARGEST_MICRO_BATCH and all(size % (2 * micro[-1] * data) == 0 for size in sizes):
        micro.append(2 * micro[-1])
    return micro


def _is_set(name: str, overrides: Sequence[str]) -> bool:
    return any(given.split("=", 1)[0] == name for given in overrides)


def _divisors(number: int, limit: int) -> list[int]:
    return [divisor for divisor in range(1, limit + 1) if number % divisor == 0]
