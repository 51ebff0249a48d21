"""A ladder whose rungs follow a known law, for tests that train nothing: the files of finished runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

from foundation.configuration import load_config, write_resolved
from pretrain.config import RESOLVED_FILE
from pretrain.monitor.metrics import METRICS_FILE
from tests.small_run import write_small_run
from tools.ladder.law import LossLaw
from tools.ladder.rungs import Rung, rungs_of, write_configs
from tools.ladder.settings import LadderConfig

LAW = LossLaw(E=1.1, A=60.0, alpha=0.33, B=300.0, beta=0.37)
HELD_OUT_TOKENS = 1824
TOKENS = 10_000_000


def size(hidden: int, layers: int, **more: object) -> dict[str, object]:
    heads = {"attention_heads": 2, "key_value_heads": 2, "feed_forward_size": 2 * hidden}
    return {"hidden_size": hidden, "layers": layers, **heads, **more}


def write_ladder(folder: Path, **changes: object) -> Path:
    """Token files, the configuration of a large run, and a ladder of nine rungs with one repeat; returns its file."""
    train = write_small_run(folder)
    values = yaml.safe_load(train.read_text())
    values["model"] |= size(64, 3)
    values["output"] = str(folder / "target")
    values["schedule"] = {"total_steps": 40_000, "warmup_steps": 4000}
    values["evaluation"] = {"every_steps": 40_000, "batches": 1000}
    train.write_text(yaml.safe_dump(values))
    mixture = yaml.safe_load((folder / "mixture.yaml").read_text())
    mixture["datasets"][0]["tokens"] = TOKENS  # nothing reads them here
    (folder / "mixture.yaml").write_text(yaml.safe_dump(mixture))
    ladder = {
        "output": str(folder / "ladder"),
        "train": str(train),
        "tokens_per_parameter": [20, 40, 80],
        "sizes": {"a": size(8, 1), "b": size(16, 2), "c": size(24, 2, learning_rate=1e-3)},
        "repeats": [{"size": "a", "tokens_per_parameter": 20, "seeds": [7, 8]}],
        **changes,
    }
    (folder / "ladder.yaml").write_text(yaml.safe_dump(ladder))
    return folder / "ladder.yaml"


def opened(path: Path) -> tuple[LadderConfig, list[Rung]]:
    ladder = load_config(LadderConfig, path)
    return ladder, rungs_of(ladder)


def write_run(rung: Rung, loss: float, held_out_tokens: int = HELD_OUT_TOKENS) -> None:
    """The files of a finished run."""
    write_resolved(rung.config, rung.folder / RESOLVED_FILE)
    steps = rung.config.schedule.steps
    lines: list[dict[str, object]] = [
        {
            "kind": "train",
            "step": step,
            "consumed_tokens": rung.tokens * step // steps,
            "loss": LAW(rung.parameters, rung.tokens * step / steps),
            "step_seconds": 0.01,
        }
        for step in range(1, steps + 1)
    ]
    lines.append({"kind": "evaluation", "step": steps, "loss": loss, "tokens": held_out_tokens})
    (rung.folder / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))


def climb(path: Path, noise: float = 0.003) -> tuple[LadderConfig, list[Rung]]:
    """All rungs finished, with losses of the law and some chance."""
    ladder, rungs = opened(path)
    write_configs(rungs)
    random = np.random.default_rng(3)
    for rung in rungs:
        write_run(rung, LAW(rung.parameters, rung.tokens) * float(np.exp(random.normal(0, noise))))
    return ladder, rungs
