"""Predictions: written before a run, and compared with it afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from foundation.atomic_files import digest, sha256_file, write_json
from foundation.configuration import ConfigError, load_config
from foundation.version import program
from pretrain.config import RESOLVED_FILE, TrainConfig
from pretrain.data.epochs import with_steps
from pretrain.data.mixture import load_mixture
from pretrain.data.order import window_count
from pretrain.monitor.metrics import METRICS_FILE, read_metrics
from tools.ladder.frontier import compute_law
from tools.ladder.interval import INTERVAL, LadderError, Points, check_inside, fit_points, forecast
from tools.ladder.rungs import Result, Rung, cost_of, differs_from_rungs, run_digest
from tools.ladder.settings import LadderConfig
from tools.report.run import read_json

PREDICTIONS_FOLDER = "predictions"


def prediction_path(ladder: LadderConfig, target: TrainConfig) -> Path:
    """File of the prediction of a run."""
    return ladder.output / PREDICTIONS_FOLDER / f"{run_digest(target)[:12]}.json"


def predict(ladder: LadderConfig, rung: Rung, results: Sequence[Result], points: Points, target: TrainConfig) -> Path:
    """Predict a run's loss on the whole held-out part, and write it down before the run begins.

    Args:
        rung: any of the ladder.

    Returns:
        File with value, interval, and digests of rungs and run. A prediction that was made before stays as it is.

    Raises:
        LadderError: the rungs do not allow a prediction, or the run has begun already.
        ValueError: the run differs from the rungs, or evaluates other text than they did.
    """
    target = with_steps(target)
    path = prediction_path(ladder, target)
    if path.is_file():
        return path
    begun = target.output / METRICS_FILE
    if begun.is_file():
        raise LadderError(
            f"{begun}: the run has begun: what is predicted after it is no prediction; give a new `output`"
        )
    _check_target(rung, results, target)
    parameters, tokens, flops = cost_of(target)
    law, _ = fit_points(points)
    check_inside(law)
    found = forecast(points, parameters, tokens, flops)
    best_parameters, best_tokens = law.optimum(6.0 * parameters * tokens)
    by_compute: dict[str, Any] | None = None
    with suppress(LadderError):
        curve = compute_law(points, tokens / parameters)
        by_compute = {**asdict(curve), "loss": curve(flops)}
    write_json(
        path,
        {
            "made": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "run": {"output": str(target.output), "digest": run_digest(target)},
            "parameters": parameters,
            "tokens": tokens,
            "flops": flops,
            "loss": found.loss,
            "low": found.low,
            "high": found.high,
            "probability": INTERVAL,
            "forecast": asdict(found),
            "law": asdict(law),
            "by_compute": by_compute,
            "beyond": {
                "largest_rung": flops / float(points.flops[-1]),
                "all_rungs": flops / sum(one.flops for one in results),
            },
            "optimum": {
                "parameters": best_parameters,
                "tokens": best_tokens,
                "loss": law(best_parameters, best_tokens),
            },
            "rungs": {
                "count": len(results),
                "digest": digest([[one.parameters, one.tokens, one.flops, one.loss] for one in results]),
                "mixture": results[0].mixture,
                "held_out_tokens": results[0].held_out_tokens,
            },
            "program": program(),
        },
    )
    return path


def _check_target(rung: Rung, results: Sequence[Result], target: TrainConfig) -> None:
    changed = differs_from_rungs(target, rung)
    if changed is not None:
        name, here, there = changed
        raise ConfigError(f"{name}: {here!r}, and the rungs have {there!r}: their law is not that of this run")
    path = target.data.mixture
    if not path.is_file():
        raise ConfigError(f"data.mixture: {path} is not there, so nothing shows that the run has the data of the rungs")
    if results[0].mixture is not None and sha256_file(path) != results[0].mixture:
        raise ConfigError(f"data.mixture: {path} is not the file that the rungs were trained on")
    sequence, size = target.data.sequence_length, target.batch.global_batch_size
    mixture = load_mixture(path)
    samples = sum(window_count(one.heldout_tokens, sequence) for one in mixture.datasets if one.heldout)
    if target.evaluation.batches * size < samples:
        raise ConfigError(
            f"evaluation.batches: {target.evaluation.batches} batches of {size} are not the whole held-out part of "
            f"{samples} samples, which the rungs were evaluated on: {-(-samples // size)} at least"
        )


def check(ladder: LadderConfig, folder: Path) -> tuple[dict[str, Any], float, bool]:
    """Compare a finished run with its prediction.

    Returns:
        The prediction, the run's loss, and whether it is inside the interval.

    Raises:
        ValueError: the run was not predicted, or is not finished, or was evaluated on other text.
    """
    resolved = folder / RESOLVED_FILE
    if not resolved.is_file():
        raise ValueError(f"{resolved}: no such file; give the output folder of a run")
    run = load_config(TrainConfig, resolved)
    path = prediction_path(ladder, run)
    made = read_json(path)
    if made is None:
        raise ValueError(f"{path}: no such file: this run, with these settings, was not predicted by {ladder.output}")
    evaluation = _last_evaluation(folder, run)
    if evaluation is None:
        raise ValueError(f"{folder}: the run is not finished: no evaluation at step {run.schedule.steps:,}, its last")
    expected = made["rungs"]["held_out_tokens"]
    if expected is not None and evaluation["tokens"] != expected:
        raise ValueError(
            f"{folder}: evaluated on {evaluation['tokens']:,} held-out tokens, and the rungs on {expected:,}: set "
            "evaluation.batches so that the whole held-out part is evaluated"
        )
    loss = float(evaluation["loss"])
    return made, loss, made["low"] <= loss <= made["high"]


def with_outcomes(ladder: LadderConfig) -> list[dict[str, Any]]:
    """All predictions of a ladder, with `reached`: the loss of the run, None while it is not finished."""
    found = []
    for path in sorted((ladder.output / PREDICTIONS_FOLDER).glob("*.json")):
        made = read_json(path)
        try:
            reached: float | None = check(ladder, Path(made["run"]["output"]))[1]
        except ValueError:
            reached = None
        found.append({**made, "reached": reached})
    return found


def _last_evaluation(folder: Path, run: TrainConfig) -> dict[str, Any] | None:
    metrics = read_metrics(folder / METRICS_FILE) if (folder / METRICS_FILE).is_file() else []
    last = [line for line in metrics if line["kind"] == "evaluation" and line["step"] == run.schedule.steps]
    return last[-1] if last else None
