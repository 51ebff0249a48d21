"""The planner beside published runs, and beside this machine after it was calibrated."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import yaml

from foundation.configuration import load_config
from foundation.progress import Progress
from pretrain.config import TrainConfig, check_world_size
from tools.plan.calibrate import calibrate, measure_step
from tools.plan.calibration import calibrated_time
from tools.plan.cost import Layout, stages_of
from tools.plan.published import published_runs

LAYOUTS = (
    (1, 1, 1),
    (2, 1, 1),
    (1, 2, 1),
    (1, 1, 2),
    (4, 1, 1),
    (2, 2, 1),
    (2, 1, 2),
    (1, 2, 2),
    (1, 4, 1),
    (1, 1, 4),
    (2, 2, 2),
    (1, 2, 4),
    (1, 4, 2),
)
"""Tensor, pipeline and data degrees."""


def published_rows() -> list[list[object]]:
    """Source, run, seconds published and predicted, error, what the source does not say."""
    rows: list[list[object]] = []
    errors = []
    for run in published_runs():
        errors.append(abs(run.error))
        rows.append(
            [
                run.source,
                run.name + (" (fitted)" if run.fitted else ""),
                f"{run.seconds:.2f}",
                f"{run.predicted().total:.2f}",
                f"{run.error:+.1%}",
                run.assumed,
            ]
        )
    rows.append(["all", f"median of {len(errors)}", "", "", f"{median(errors):.1%}", ""])
    others = [abs(run.error) for run in published_runs() if not run.fitted]
    rows.append(["all that chose no constant", f"median of {len(others)}", "", "", f"{median(others):.1%}", ""])
    return rows


def machine_config(folder: Path, hidden: int, layers: int, sequence: int) -> Path:
    """A configuration of a LLaMA shape, written to `folder`."""
    values = {
        "output": "unused",
        "model": {
            "vocabulary_size": 2048,
            "hidden_size": hidden,
            "layers": layers,
            "attention_heads": max(hidden // 32, 4),
            "key_value_heads": max(hidden // 32, 4),
            "feed_forward_size": 3 * hidden,
            "maximum_positions": sequence,
        },
        "data": {"mixture": "unused", "sequence_length": sequence},
        "batch": {"global_batch_size": 16, "micro_batch_size": 2},
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"total_steps": 100, "warmup_steps": 1},
        "precision": "fp32",
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def machine_rows(hidden: int, layers: int, sequence: int, processes: int) -> list[list[object]]:
    """Degrees, seconds predicted and measured, and error, of layouts of up to `processes` processes."""
    rows: list[list[object]] = []
    errors = []
    with tempfile.TemporaryDirectory() as folder:
        path = machine_config(Path(folder), hidden, layers, sequence)
        calibration = calibrate(path, [], processes)
        layouts = [degrees for degrees in LAYOUTS if degrees[0] * degrees[1] * degrees[2] <= processes]
        with Progress("measure", len(layouts), "layouts") as progress:
            for tensor, pipeline, data in layouts:
                overrides = [f"parallel.tensor={tensor}", f"parallel.pipeline={pipeline}"]
                config = load_config(TrainConfig, path, overrides)
                world = tensor * pipeline * data
                micro_batches = config.accumulation_steps(check_world_size(config, world))
                layout = Layout(tensor, pipeline, data, config.batch.micro_batch_size, micro_batches)
                predicted = calibrated_time(calibration, config, layout, stages_of(config.model, sequence, layout))
                seconds = measure_step(path, overrides, world)
                errors.append(abs(predicted.total / seconds - 1))
                rows.append(
                    [
                        f"{tensor} × {pipeline} × {data}",
                        f"{predicted.total:.3f}",
                        f"{seconds:.3f}",
                        f"{predicted.total / seconds - 1:+.1%}",
                        ", ".join(f"{name} {share:.0%}" for name, share in predicted.shares()[:3]),
                    ]
                )
                progress.advance()
    rows.append(["median", "", "", f"{median(errors):.1%}", ""])
    return rows
