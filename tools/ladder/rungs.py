"""The rungs of a ladder: an ordinary run each, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from foundation.atomic_files import digest, sha256_file, write_json
from foundation.configuration import ConfigError, flat_settings, load_config, write_resolved
from pretrain.config import RESOLVED_FILE, TrainConfig
from pretrain.data.epochs import samples_of_an_epoch, with_steps
from pretrain.data.mixture import load_mixture
from pretrain.families.mapping import parameter_count
from pretrain.monitor.flops import model_flops_per_token
from pretrain.monitor.metrics import METRICS_FILE, read_metrics
from tools.ladder.settings import LadderConfig
from tools.report.run import read_json

RESULT_FILE = "rung.json"
TRAIN_FILE = "train.yaml"

WHOLE_HELD_OUT = 1_000_000_000
"""`evaluation.batches` by which all held-out samples are evaluated."""
LARGEST_WARMUP_SHARE = 0.05
"""Largest share of a rung that is warm-up. A warm-up that is long for the small runs bends the law (Porian et al. 2024,
arXiv:2406.19146, section 3.3)."""
MOST_EPOCHS = 4.0
"""Passes over the data up to which repeated tokens are worth nearly as much as new ones (Muennighoff et al. 2023,
arXiv:2305.16264, section 6)."""
CURVE_POINTS = 60

_SIZE = ("hidden_size", "layers", "attention_heads", "key_value_heads", "feed_forward_size")
_FREE = (
    *(f"model.{name}" for name in (*_SIZE, "attention_head_size")),
    *(f"schedule.{name}" for name in ("total_steps", "warmup_steps", "warmup_ratio", "epochs", "decay_steps")),
    "optimizer.learning_rate",
    "batch.",
    "seed",
)
"""Settings that may differ from rung to rung, and prefixes of groups of them."""
_PLACE = (
    "output",
    "data.mixture",
    "stop_after_step",
    *("parallel.", "checkpoint.", "monitor.", "evaluation.", "spikes."),
    *("compile", "attention_backend", "deterministic", "check", "recomputation"),
)
"""Settings of where and how a run is computed, by which its loss changes by rounding at most. Token files are
compared by their content."""


class Cost(NamedTuple):
    """Parameters of a run, tokens that it trains on, and floating-point operations of its training: 6 N D with the
    head, without the look-up of the embedding, and with attention, see `pretrain.monitor.flops`."""

    parameters: int
    tokens: int
    flops: float


def cost_of(config: TrainConfig) -> Cost:
    """Cost of a run with a number of steps."""
    sequence = config.data.sequence_length
    tokens = config.batch.sizes.after(config.schedule.steps) * sequence
    return Cost(parameter_count(config.model), tokens, float(model_flops_per_token(config.model, sequence)) * tokens)


@dataclass(frozen=True)
class Rung:
    """One small run before it is done, with its cost."""

    name: str
    config: TrainConfig
    parameters: int
    tokens: int
    flops: float

    @property
    def folder(self) -> Path:
        return self.config.output

    @property
    def config_file(self) -> Path:
        return self.folder / TRAIN_FILE


@dataclass(frozen=True)
class Result:
    """A run that counts for the fit.

    Attributes:
        loss: mean over the whole held-out part after the last step, in nats.
        held_out_tokens: targets of the held-out part.
        seed: None: not recorded.
        mixture: SHA-256 of the `mixture.yaml`, which has those of the token files; None: not recorded.
        common: digest of the settings that all rungs share; None: not recorded.
        curve: (tokens, smoothed training loss) along the run.
    """

    name: str
    parameters: float
    tokens: float
    flops: float
    loss: float
    held_out_tokens: int | None = None
    seed: int | None = None
    mixture: str | None = None
    common: str | None = None
    seconds: float | None = None
    curve: tuple[tuple[float, float], ...] = field(default=(), repr=False)


def rungs_of(ladder: LadderConfig) -> list[Rung]:
    """All rungs, cheapest first.

    Raises:
        ValueError: the configuration of the predicted run, or a rung's, is invalid; or the data are too few.
    """
    base = with_steps(load_config(TrainConfig, ladder.train))
    _check_base(base, ladder.train)
    seeds = {(repeat.size, repeat.tokens_per_parameter): repeat.seeds for repeat in ladder.repeats}
    found = []
    for size in ladder.sizes:
        for length in ladder.lengths(size):
            for seed in (base.seed, *seeds.get((size, length), ())):
                name = f"{size}-{length:g}" + (f"-seed-{seed}" if seed != base.seed else "")
                found.append(_rung(ladder, base, name, size, length, seed))
    _check_data(base, found)
    return sorted(found, key=lambda rung: (rung.flops, rung.name))


def _check_base(base: TrainConfig, path: Path) -> None:
    for name, given in (
        ("data.phases", base.data.phases),
        ("initial_weights", base.initial_weights),
        ("branch_from", base.branch_from),
        ("stop_after_step", base.stop_after_step),
    ):
        if given:
            raise ConfigError(
                f"{path}: {name}: a run with it follows no law of size and length alone, and rungs cannot have it; "
                "predict a run from the beginning without it"
            )


def _rung(ladder: LadderConfig, base: TrainConfig, name: str, size: str, length: float, seed: int) -> Rung:
    given = ladder.sizes[size]
    values = base.model_dump(mode="json")
    values["model"] |= {key: getattr(given, key) for key in _SIZE}
    values["batch"] |= {
        key: getattr(given, key) for key in ("global_batch_size", "micro_batch_size") if getattr(given, key) is not None
    }
    values["optimizer"] |= {} if given.learning_rate is None else {"learning_rate": given.learning_rate}
    values |= {"output": str(ladder.output / "rungs" / name), "seed": seed}
    values["parallel"] = {"tensor": given.tensor, "pipeline": given.pipeline}
    values["evaluation"] = {"batches": WHOLE_HELD_OUT}
    try:
        sized = TrainConfig.model_validate(values)
        parameters = parameter_count(sized.model)
        sequence, schedule = sized.data.sequence_length, base.schedule
        steps = sized.batch.sizes.steps_to(math.ceil(length * parameters / sequence))
        share = min(schedule.warmup / schedule.steps, LARGEST_WARMUP_SHARE)
        values["schedule"] |= {"total_steps": steps, "warmup_steps": math.ceil(share * steps)}
        if schedule.decay_steps is not None:
            values["schedule"]["decay_steps"] = max(1, round(schedule.decay_steps / schedule.steps * steps))
        values["evaluation"]["every_steps"] = steps
        config = TrainConfig.model_validate(values)
    except ValidationError as error:
        reasons = "; ".join(str(fault.get("ctx", {}).get("error", fault["msg"])) for fault in error.errors())
        raise ConfigError(f"sizes.{size}: {reasons}") from None
    return Rung(name, config, *cost_of(config))


def _check_data(base: TrainConfig, rungs: list[Rung]) -> None:
    """Refuse rungs that repeat their data too often to follow the law, once there are data."""
    if not base.data.mixture.is_file():
        return
    epoch = samples_of_an_epoch(load_mixture(base.data.mixture), base.data.sequence_length) * base.data.sequence_length
    most = max(rungs, key=lambda rung: rung.tokens)
    if most.tokens > MOST_EPOCHS * epoch:
        raise ConfigError(
            f"tokens_per_parameter: rung {most.name} needs {most.tokens:,} tokens, {most.tokens / epoch:.1f} passes "
            f"over the {epoch:,} of {base.data.mixture}; from {MOST_EPOCHS:g} on, repeated tokens are worth less than "
            "new ones"
        )


def write_configs(rungs: Sequence[Rung]) -> None:
    """Write the configuration of every rung."""
    for rung in rungs:
        rung.folder.mkdir(parents=True, exist_ok=True)
        write_resolved(rung.config, rung.config_file)


def result_of(rung: Rung) -> Result | None:
    """What came of a rung; None while it is not finished. Its numbers are gathered in `rung.json` the first time.

    Raises:
        ValueError: its run had other settings than the ladder now gives it.
    """
    resolved = rung.folder / RESOLVED_FILE
    metrics = rung.folder / METRICS_FILE
    if not resolved.is_file() or not metrics.is_file():
        return None
    ran = load_config(TrainConfig, resolved)
    changed = difference(ran, rung.config, _PLACE)
    if changed is not None:
        name, before, now = changed
        raise ValueError(
            f"{rung.folder}: run with {name}={before!r}, and the ladder now has {now!r}: restore it, or remove the "
            "folder"
        )
    path = rung.folder / RESULT_FILE
    known = read_json(path)
    if known is not None:
        return Result(**{**known, "curve": tuple((float(x), float(y)) for x, y in known["curve"])})
    lines = read_metrics(metrics)
    steps = rung.config.schedule.steps
    evaluations = [line for line in lines if line["kind"] == "evaluation" and line["step"] == steps]
    if not evaluations:
        return None
    trained = [line for line in lines if line["kind"] == "train"]
    mixture = rung.config.data.mixture
    result = Result(
        rung.name,
        rung.parameters,
        rung.tokens,
        rung.flops,
        float(evaluations[-1]["loss"]),
        int(evaluations[-1]["tokens"]),
        rung.config.seed,
        sha256_file(mixture) if mixture.is_file() else None,
        common_digest(rung.config),
        sum(float(line["step_seconds"]) for line in trained),
        training_curve([(float(line["consumed_tokens"]), float(line["loss"])) for line in trained]),
    )
    write_json(path, result.__dict__)
    return result


def results_of(ladder: LadderConfig, rungs: list[Rung]) -> list[Result]:
    """Results of the finished rungs.

    Raises:
        ValueError: rungs were trained or evaluated on different data, or a rung has other settings, see `result_of`.
    """
    found = [result for result in map(result_of, rungs) if result is not None]
    for name, what in (("mixture", "trained on other token files"), ("held_out_tokens", "evaluated on other text")):
        for result in found[1:]:
            if getattr(result, name) != getattr(found[0], name):
                raise ValueError(
                    f"{ladder.output}: {result.name} was {what} than {found[0].name}: remove the folders of those that "
                    "are out of date, and run the ladder again"
                )
    return found


def difference(one: TrainConfig, other: TrainConfig, apart_from: tuple[str, ...]) -> tuple[str, object, object] | None:
    """The first setting, by name, in which two configurations differ, and both values; None: they do not.

    Args:
        apart_from: settings, and prefixes of groups of them, that may differ.
    """
    left, right = (flat_settings(config.model_dump(mode="json")) for config in (one, other))
    for name in sorted({*left, *right}):
        if left.get(name) != right.get(name) and not _is_among(name, apart_from):
            return name, left.get(name), right.get(name)
    return None


def differs_from_rungs(target: TrainConfig, rung: Rung) -> tuple[str, object, object] | None:
    """The first setting in which a run differs from the rungs so that their law is not its law."""
    return difference(target, rung.config, (*_FREE, *_PLACE))


def common_digest(config: TrainConfig) -> str:
    """Digest of the settings that rungs and predicted runs must share."""
    settings = flat_settings(config.model_dump(mode="json"))
    return digest({name: value for name, value in settings.items() if not _is_among(name, (*_FREE, *_PLACE))})


def run_digest(config: TrainConfig) -> str:
    """Digest of the settings that decide about a run's loss."""
    settings = flat_settings(config.model_dump(mode="json"))
    return digest({name: value for name, value in settings.items() if not _is_among(name, _PLACE)})


def _is_among(name: str, names: tuple[str, ...]) -> bool:
    return any(name == one or (one.endswith(".") and name.startswith(one)) for one in names)


def training_curve(points: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Training losses, averaged over windows that are equally long on a logarithmic scale of tokens."""
    if not points:
        return ()
    tokens, losses = np.array(points).T
    edges = np.geomspace(tokens[0] * 0.999, tokens[-1], CURVE_POINTS + 1)
    window = np.clip(np.searchsorted(edges, tokens) - 1, 0, CURVE_POINTS - 1)
    counts = np.bincount(window, minlength=CURVE_POINTS)
    middle, mean = (np.bincount(window, values, CURVE_POINTS) for values in (tokens, losses))
    return tuple(
        (float(x / count), float(y / count)) for x, y, count in zip(middle, mean, counts, strict=True) if count
    )


def read_points(path: Path) -> list[Result]:
    """Runs from elsewhere: a CSV file with the columns parameters, tokens, loss, and optionally name, flops and seed.
    Without `flops`, C = 6 N D.

    Raises:
        ValueError: a column is missing or a value is not a positive number; names the line.
    """
    import csv

    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"parameters", "tokens", "loss"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(
                f"{path}:1: no column {', '.join(sorted(missing))}; parameters, tokens and loss are needed"
            )
        return list(_points(path, reader))


def _points(path: Path, lines: Iterator[Mapping[str, Any]] | Any) -> Iterator[Result]:
    for number, line in enumerate(lines, start=2):
        values: dict[str, float] = {}
        for name in ("parameters", "tokens", "loss", "flops"):
            text = line.get(name)
            if name == "flops" and not text:
                values[name] = 6 * values["parameters"] * values["tokens"]
                continue
            try:
                values[name] = float(text)
            except (TypeError, ValueError):
                raise ValueError(f"{path}:{number}: {name}: {text!r} is not a number") from None
            if not (math.isfinite(values[name]) and values[name] > 0):
                raise ValueError(f"{path}:{number}: {name}: {text} must be a positive number")
        seed = line.get("seed")
        parameters, tokens, loss, flops = (values[name] for name in ("parameters", "tokens", "loss", "flops"))
        name = line.get("name") or f"line {number}"
        yield Result(name, parameters, tokens, flops, loss, seed=int(seed) if seed else None)


def points_table(results: list[Result]) -> str:
    """The table that `read_points` reads."""
    lines = ["name,parameters,tokens,flops,loss,seed"]
    for one in results:
        seed = "" if one.seed is None else one.seed
        lines.append(f"{one.name},{one.parameters:.0f},{one.tokens:.0f},{one.flops!r},{one.loss!r},{seed}")
    return "\n".join(lines) + "\n"
