"""`altiplano plan`: the fastest layouts that fit, with time, money and energy."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from foundation.configuration import ConfigError, load_config
from foundation.progress import Progress, format_seconds, summary_table
from pretrain.config import TrainConfig
from pretrain.data.epochs import with_steps
from pretrain.families.mapping import parameter_count
from pretrain.monitor.flops import training_flops_per_token
from tools.plan.calibrate import calibrate, measure_step
from tools.plan.calibration import calibrated_time, read_calibration, write_calibration
from tools.plan.cost import StepTime
from tools.plan.hardware import HARDWARE
from tools.plan.search import Candidate, Found, search, timer_of

GIB = 2**30
DEFAULT_GPU = "h100"
FREE_SHARE = 0.1
"""Share of the memory that is left free: the CUDA context, and what the allocator cannot use again."""
EXPLAINED_SHARE = 0.005
"""Share of a step from which on a difference between two layouts is worth a word."""
MOST_TOO_LARGE = 3
PUBLISHED_ERROR = 0.06
"""Median error of the planner over `published_runs`, rounded up; held by tests/unit/tools/plan/test_published.py."""

EXAMPLES = f"""examples:
  altiplano plan configs/train/llama-7b.yaml --devices 64
      the three fastest layouts on 64 H100, and what they cost
  altiplano plan configs/train/bloom-176b.yaml --devices 384 --gpu a100 --price 2
      on A100, at two dollars an hour
  altiplano plan configs/train/llama-7b.yaml --devices 64 recomputation=full parallel.tensor=4
      what is given is not varied
  altiplano plan configs/train/demo.yaml --devices 2 --calibrate machine.yaml --measure
      on this machine: measure its parts, plan with them, and try the three fastest

GPUs: {", ".join(HARDWARE)}"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano plan",
        description="The fastest layouts of a run that fit into a cluster: degrees of the axes, micro-batch, "
        "recomputation, sequence and context parallelism; with their time, memory and cost. Nothing is trained and no "
        "data is read. How far predictions are from published runs: docs/planning.md.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="YAML file of a training run, see configs/train/")
    parser.add_argument("overrides", nargs="*", help="settings by dotted name, such as recomputation=full")
    parser.add_argument("--devices", type=int, required=True, help="GPUs in all")
    parser.add_argument("--gpu", choices=HARDWARE, help=f"kind of GPU ({DEFAULT_GPU})")
    parser.add_argument("--per-node", type=int, help="GPUs of a node, which a tensor group stays inside (8)")
    parser.add_argument(
        "--network", type=float, metavar="GBIT", help="Gbit/s between nodes for each GPU (400 with H100, 200 with A100)"
    )
    parser.add_argument("--memory-gib", type=float, help="memory for the run of one GPU (nine tenths of what it has)")
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE",
        help="measure this machine with the run's model in up to --devices processes, write FILE, and plan with it",
    )
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="plan with what --calibrate has measured")
    parser.add_argument(
        "--measure", action="store_true", help="run the layouts that are shown for twenty steps each, on this machine"
    )
    parser.add_argument("--show", type=int, default=3, metavar="N", help="how many layouts to show (3)")
    parser.add_argument("--price", type=float, metavar="MONEY", help="of a GPU for an hour, in any currency")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 a layout fits, 1 none does, 2 wrong settings."""
    command = make_parser()
    given = command.parse_intermixed_args(arguments)
    for name in ("devices", "per_node", "memory_gib", "network", "price", "show"):
        value = getattr(given, name)
        if value is not None and value <= 0:
            command.error(f"--{name.replace('_', '-')}: {value} must be positive")
    if given.calibrate and given.calibration:
        command.error("--calibrate and --calibration: the first makes what the second reads; give one")
    measured = given.calibrate or given.calibration
    if given.measure and not measured:
        command.error("--measure: only on a machine that is at hand; give --calibrate or --calibration too")
    if measured and (given.gpu or given.network or given.price):
        command.error("--gpu, --network and --price: have no effect with what was measured; leave them out")
    try:
        return _plan_measured(given) if measured else _plan_named(given)
    except (ValueError, RuntimeError) as error:
        print(f"plan: {error}", file=sys.stderr)
        return 2


def _plan_named(given: argparse.Namespace) -> int:
    """Plan for hardware that has a name."""
    hardware = HARDWARE[given.gpu or DEFAULT_GPU]
    if given.per_node:
        hardware = replace(hardware, devices_per_node=given.per_node)
    if given.network:
        hardware = replace(hardware, network_rate=given.network * 1e9 / 8)
    budget = given.memory_gib * GIB if given.memory_gib else hardware.memory_bytes * (1 - FREE_SHARE)
    config = load_config(TrainConfig, given.config, given.overrides)
    if config.precision != "bf16":
        raise ConfigError(
            f"precision: {config.precision} on GPUs has no published speeds to predict from; give precision=bf16"
        )
    found = search(
        given.config,
        given.overrides,
        given.devices,
        hardware.devices_per_node,
        budget,
        timer_of(hardware),
        given.show,
    )
    where = (
        f"{given.devices} {hardware.name}, {hardware.devices_per_node} a node, "
        f"{hardware.network_rate * 8 / 1e9:,.0f} Gbit/s each"
    )
    if not _print(config, found, given.devices, where, budget, hardware.peak_flops):
        return 1
    best = found.best[0]
    hours = best.time.total * _full_steps(config) * given.devices / 3600
    money = f", {hours * given.price:,.0f} at {given.price:g} an hour" if given.price else ""
    print(
        f"The first takes {hours:,.0f} GPU hours{money}, and at most {hours * hardware.watts / 1e6:,.2f} MWh "
        f"({hardware.watts:g} W a GPU by its data sheet, without processors and cooling).\n"
        f"Speeds are those that other programs reached: the planner meets their published steps within "
        f"{PUBLISHED_ERROR:.0%} in the median. This program has not been timed on a GPU.\n"
        f"Next: altiplano train … {' '.join(best.settings)}"
    )
    return 0


def _plan_measured(given: argparse.Namespace) -> int:
    """Plan for the machine at hand."""
    config = load_config(TrainConfig, given.config, given.overrides)
    if config.parallel.sequence:
        raise ConfigError("parallel.sequence: is not measured; plan with parallel.sequence=false")
    if config.parallel.context > 1:
        raise ConfigError("parallel.context: is not measured; plan with parallel.context=1")
    if config.is_partial:
        raise ConfigError("trainable, adapter: are not measured; plan with all weights trained")
    if given.calibrate:
        calibration = calibrate(given.config, given.overrides, given.devices)
        write_calibration(given.calibrate, calibration)
        print(f"measured: {given.calibrate}")
    else:
        calibration = read_calibration(given.calibration, config)
    fixed = [
        f"batch.micro_batch_size={config.batch.micro_batch_size}",
        f"recomputation={config.recomputation}",
        "parallel.sequence=false",
        "parallel.context=1",
    ]
    # Processes share a machine's memory; GPUs have their own.
    whole = device_memory() if not calibration.cores else machine_memory() / given.devices
    budget = given.memory_gib * GIB if given.memory_gib else whole * (1 - FREE_SHARE)
    per_node = given.per_node or given.devices
    found = search(
        given.config,
        [*given.overrides, *fixed],
        given.devices,
        per_node,
        budget,
        lambda config, layout, stages: calibrated_time(calibration, config, layout, stages),
        given.show,
    )
    where = f"{given.devices} processes, {calibration.machine}"
    if not _print(config, found, given.devices, where, budget, None):
        return 1
    if given.measure:
        rows = []
        with Progress("measure", len(found.best), "layouts") as progress:
            for number, candidate in enumerate(found.best, 1):
                seconds = measure_step(given.config, [*given.overrides, *candidate.settings], given.devices)
                predicted = candidate.time.total
                rows.append((str(number), f"{predicted:.3f}", f"{seconds:.3f}", f"{predicted / seconds - 1:+.1%}"))
                progress.advance()
        summary_table("predicted and measured seconds of a step:", rows, ("", "predicted", "measured", "error"))
    print(f"Next: altiplano train … {' '.join(found.best[0].settings)}")
    return 0


def device_memory() -> float:
    """Bytes of this machine's GPU."""
    return float(torch.cuda.get_device_properties(0).total_memory)


def machine_memory() -> float:
    """Bytes of this machine's memory."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _print(
    config: TrainConfig, found: Found, devices: int, where: str, budget: float, peak_flops: float | None
) -> bool:
    """Print what was found; returns whether a layout fits.

    Raises:
        ConfigError: there is no layout at all.
    """
    if not found.tried:
        raise ConfigError(
            f"no layout of {devices} devices divides the model's heads and layers and the batch of "
            f"{config.batch.global_batch_size} samples (batch.micro_batch_size {config.batch.micro_batch_size})"
        )
    steps, is_one_step = _steps(config)
    tokens = config.batch.sizes.after(steps) * config.data.sequence_length
    flops = training_flops_per_token(config, config.data.sequence_length) * tokens
    trained = f"{config.trained_count:,} trained weights, " if config.is_partial else ""
    length = "a step (schedule.epochs need data.mixture to be counted)" if is_one_step else "in all"
    print(
        f"{parameter_count(config.model) / 1e9:,.2f} G parameters, {trained}{tokens / 1e9:,.1f} G tokens {length}, "
        f"{flops:.3g} FLOPs; {where}, {budget / GIB:.1f} GiB for the run"
    )
    full_steps = _full_steps(config)
    shown = found.best or found.too_large[:MOST_TOO_LARGE]
    context = ["context"] if any(candidate.layout.context > 1 for candidate in shown) else []
    columns = ["", "tensor", *context, "pipe", "data", "micro", "recompute", "GiB", "s/step", "MFU", "time"]
    rows = []
    for number, candidate in enumerate(shown, 1):
        layout, seconds = candidate.layout, candidate.time.total
        rate = flops / full_steps / seconds / layout.devices
        degrees = [layout.tensor, *([layout.context] if context else []), layout.pipeline, layout.data]
        rows.append(
            (
                str(number),
                *(str(value) for value in (*degrees, layout.micro_batch_size)),
                layout.recomputation,
                f"{candidate.memory.total / GIB:.1f}",
                f"{seconds:.2f}",
                f"{rate / peak_flops:.1%}" if peak_flops else "",
                format_days(seconds * full_steps),
            )
        )
    what = "the fastest that fit" if found.best else "none fits; the smallest"
    summary_table(f"{found.tried:,} layouts; {what}:", rows, columns)
    if not found.best:
        print(
            "Next: more devices, a GPU with more memory, or less at a time: data.sequence_length, "
            "batch.global_batch_size for fewer micro-batches."
        )
        return False
    for number, candidate in enumerate(found.best, 1):
        print(f"{number}. {_reason(candidate, found.best[0])}")
    if found.too_large:
        first = found.too_large[0]
        print(
            f"{len(found.too_large)} layouts are faster than the last of these and do not fit: "
            f"{' '.join(first.settings)} takes {first.time.total:.2f} s a step and "
            f"{first.memory.total / GIB:.1f} GiB."
        )
    return True


def _full_steps(config: TrainConfig) -> float:
    """Steps of the run, of which one with a smaller batch, while the batch grows, is worth its share."""
    return config.batch.sizes.after(_steps(config)[0]) / config.batch.global_batch_size


def _reason(candidate: Candidate, best: Candidate) -> str:
    """Where the time of the best goes, and why another is slower."""
    if candidate is best:
        parts = ", ".join(f"{WORDS[name]} {share:.0%}" for name, share in best.time.shares() if share >= 0.01)
        return f"Of a step: {parts}."
    total = best.time.total
    changes = sorted(
        (
            (getattr(candidate.time, field.name) - getattr(best.time, field.name), field.name)
            for field in fields(StepTime)
        ),
        reverse=True,
    )
    words = [f"{WORDS[name]} {seconds:+.2f} s" for seconds, name in changes if abs(seconds) > EXPLAINED_SHARE * total]
    return f"{candidate.time.total / total - 1:.1%} slower: {', '.join(words) or 'each part a little'}."


WORDS = {
    "products": "matrix products",
    "attention": "attention",
    "elementwise": "elementwise work",
    "recomputation": "recomputation",
    "tensor": "traffic of the tensor axis",
    "context": "keys and values gathered",
    "pipeline": "traffic between stages",
    "bubble": "bubble",
    "data": "traffic of the data axis",
    "optimizer": "update",
}
"""Parts of `StepTime` for people."""


def _steps(config: TrainConfig) -> tuple[int, bool]:
    """Number of steps, and whether it is one because the data that `schedule.epochs` count is not there yet."""
    try:
        return with_steps(config).schedule.steps, False
    except ConfigError:
        return 1, True


def format_days(seconds: float) -> str:
    """`12.3 days`, or less than one as hours and minutes."""
    return f"{seconds / 86400:,.1f} days" if seconds >= 86400 else format_seconds(seconds)


if __name__ == "__main__":
    sys.exit(main())
