"""Metrics for Weights & Biases, where `monitor.wandb_project` is set.

The key comes from wandb's own settings (`wandb login`, or WANDB_API_KEY), never from our configuration, which is
written beside the outputs. On nodes without internet access, WANDB_MODE=offline writes to the run's folder; `wandb
sync` sends it later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.atomic_files import digest


class WeightsAndBiases:
    """A run on Weights & Biases, which a resumed run with the same output folder continues.

    Args:
        project: name of the project.
        output: the run's folder.
        settings: settings to show as the run's configuration.

    Raises:
        ValueError: wandb is not installed.
    """

    def __init__(self, project: str, output: Path, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise ValueError(
                f"monitor.wandb_project: {project!r} needs wandb: pip install wandb, or leave the setting out"
            ) from None
        self._run = wandb.init(
            project=project,
            name="/".join(output.resolve().parts[-2:]),
            id=digest(str(output.resolve()))[:16],
            resume="allow",
            dir=str(output),
            config=dict(settings),
        )
        # Steps are repeated after a rollback or a resume, and wandb's own counter never goes back.
        self._run.define_metric("*", step_metric="step")

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Send one line of metrics."""
        self._run.log({"step": step, **{f"{kind}/{name}": value for name, value in values.items()}})

    def close(self) -> None:
        self._run.finish()
