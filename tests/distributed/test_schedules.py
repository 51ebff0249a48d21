"""Every schedule under all that can happen to a run at once: a growing batch, a stop and a resume, and a rollback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pretrain.monitor.metrics import read_metrics
from tests.distributed import spike_cases
from tests.distributed.processes import run_processes
from tests.distributed.spike_cases import spike_config, write_mixture
from tests.distributed.test_spikes import assert_same_end, steps_of, told

POISONED = (220, 300)
RAMP = {"start": 4, "increment": 2, "samples": 60}
KINDS: dict[str, dict[str, Any]] = {
    "wsd": {"decay_steps": 18},
    "linear": {},
    "constant": {},
    "inverse_square_root": {},
    "cosine": {},
}


def steps_with_a_rollback(folder: Path, **settings: Any) -> list[dict[str, Any]]:
    """Lines of the steps of a run that is stopped twice and rolled back once, after it was found equal to one that is
    told to skip the samples."""
    mixture = write_mixture(folder / "tokens", POISONED)
    settings |= {"batch__ramp_up": RAMP, "batch__micro_batch_size": 2}
    mended, undisturbed = folder / "mended", folder / "undisturbed"
    for stop in (12, 36, None):  # in the ramp, and after the rollback
        config = spike_config(mended, mixture, **settings, stop_after_step=stop)
        run_processes(1, spike_cases.run_training, config)
    rollback, *_ = told(mended)
    assert rollback.kind == "rollback" and 12 < rollback.step < 40
    assert len([line for line in read_metrics(mended / "metrics.jsonl") if line.get("event") == "resumed"]) == 2

    config = spike_config(undisturbed, mixture, **settings, data__skipped_samples=[rollback.skipped])
    run_processes(1, spike_cases.run_training, config)
    assert told(undisturbed) == []
    assert_same_end(mended, undisturbed)
    ours = steps_of(mended)
    assert ours == steps_of(undisturbed)
    return ours


@pytest.mark.parametrize(
    "kind", [kind if kind == "wsd" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_stopped_resumed_and_rolled_back_while_the_batch_grew(kind: str, tmp_path: Path) -> None:
    schedule = {"kind": kind, "total_steps": 50, "warmup_steps": 5, **KINDS[kind]}
    ours = steps_with_a_rollback(tmp_path, schedule=schedule)
    sizes = [line["global_batch_size"] for line in ours]
    assert sizes[0] == 4 and sizes[-1] == 8 and sizes == sorted(sizes)
    rates = [line["learning_rate"] for line in ours]
    assert max(rates) == pytest.approx(1e-2) and (rates[-1] < rates[25]) == (kind != "constant")
