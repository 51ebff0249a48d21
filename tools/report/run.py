"""The files of a run, read for its report."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from foundation.configuration import ConfigError, load_config
from foundation.version import described
from pretrain.config import PARITY_FILE, TrainConfig
from pretrain.data.mixture import MixtureFile, load_mixture
from pretrain.evaluation.lm_eval_tasks import main_metric
from pretrain.monitor.flops import Peak
from pretrain.monitor.metrics import read_metrics
from pretrain.spikes.ledger import LEDGER_FILE, read_ledger
from tools.hugging_face.verify import RESULT_FILE


class Run:
    """The files of a run's folder; missing parts are None."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; give the folder of a run, such as runs/demo")
        self.folder = folder
        # A training output by itself will do as well.
        self.train = folder if (folder / "metrics.jsonl").is_file() else folder / "train"
        self.ledger = read_json(folder / "ledger.json")
        self.check = read_json(folder / RESULT_FILE)
        mixture = folder / "tokens" / "mixture.yaml"
        self.mixture: MixtureFile | None = load_mixture(mixture) if mixture.is_file() else None
        metrics = self.train / "metrics.jsonl"
        self.metrics = read_metrics(metrics) if metrics.is_file() else []
        resolved = self.train / "config.resolved.yaml"
        # A run of another version may have settings that are unknown today: it is shown without what needs them.
        self.settings: TrainConfig | None = None
        self.config: dict[str, Any] | None = None
        if resolved.is_file():
            self.config = yaml.safe_load(resolved.read_text(encoding="utf-8"))
            with contextlib.suppress(ConfigError):
                self.settings = load_config(TrainConfig, resolved)
        self.parity = read_json(self.train / PARITY_FILE)
        self.spikes = read_ledger(self.train / LEDGER_FILE)
        self.versions = self._versions()

    def points(self, kind: str, name: str) -> list[tuple[float, float]]:
        """(step, value) of every line of metrics that has a number by this name."""
        lines = [line for line in self.metrics if line["kind"] == kind]
        return [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.metrics if line["kind"] == "event" and line.get("event") == event]

    @property
    def task_metrics(self) -> dict[str, dict[str, float]]:
        """Latest metrics of each task of `evaluation.tasks`, in the order of the run."""
        lines = [line for line in self.metrics if line["kind"] == "tasks"]
        found: dict[str, dict[str, float]] = {}
        for key, value in lines[-1].items() if lines else ():
            task, _, metric = key.rpartition("/")
            if task and isinstance(value, int | float):
                found.setdefault(task, {})[metric] = value
        return found

    @property
    def main_task_metrics(self) -> list[tuple[str, str]]:
        """Task and the one metric that stands for it, of the tasks that the settings name; of all where they name none
        of them, as with lm-eval's tags."""
        found = self.task_metrics
        asked = [task.name for task in self.settings.evaluation.tasks] if self.settings else []
        return [(task, main_metric(found[task])) for task in [name for name in asked if name in found] or found]

    @property
    def topology(self) -> str:
        """Topology of the latest start; empty when there was none."""
        return str(self._start.get("topology", ""))

    @property
    def peak(self) -> str:
        """Peak speed that the shares refer to since the latest start; empty when it is not recorded."""
        flops, source = self._start.get("peak_flops_per_device"), self._start.get("peak_source", "")
        return str(Peak(flops, source)) if isinstance(flops, int | float) else ""

    @property
    def _start(self) -> dict[str, Any]:
        starts = [line for line in self.metrics if line.get("event") in ("started", "resumed")]
        return starts[-1] if starts else {}

    @property
    def processes(self) -> int:
        """Number of processes of the latest start."""
        return math.prod(int(degree) for degree in re.findall(r"\d+", self.topology))

    def _versions(self) -> Mapping[str, str]:
        latest = self.train / "checkpoints" / "latest"
        if not latest.is_file():
            return {}
        index = read_json(latest.parent / latest.read_text(encoding="utf-8").strip() / "checkpoint.json") or {}
        found = {name: str(version) for name, version in index.get("versions", {}).items()}
        return {**found, "altiplano": described(index.get("program"))}


def read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
