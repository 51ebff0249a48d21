"""A profile of some steps: what the trace and the summary hold, and that training does not notice."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from foundation.configuration import ConfigError, load_config
from pretrain.config import TrainConfig
from pretrain.monitor.metrics import read_metrics
from pretrain.monitor.profiling import kind_of
from tests.distributed import task_cases
from tests.distributed.processes import run_processes
from tests.small_run import write_small_run

PROFILED = ("monitor.profile={first_step: 4, last_step: 5, ranks: [1]}", "parallel.pipeline=2")


def losses(config: Path, *overrides: str) -> list[float]:
    output = config.parent / str(len(overrides))
    run_processes(2, task_cases.run, str(config), (*overrides, f"output={output}"))
    return [line["loss"] for line in read_metrics(output / "metrics.jsonl") if line["kind"] == "train"]


def test_a_profile_shows_where_a_step_goes_and_changes_nothing(tmp_path: Path) -> None:
    config = write_small_run(tmp_path)
    assert losses(config, *PROFILED) == losses(config, PROFILED[1])
    folder = tmp_path / "2" / "profile"
    assert sorted(path.name for path in folder.iterdir()) == ["steps-4-5-rank-1.json", "steps-4-5-rank-1.txt"]
    events = json.loads((folder / "steps-4-5-rank-1.json").read_text())["traceEvents"]
    named = {event["name"]: event for event in events if event.get("ph") == "X"}
    assert {"step 4", "step 5", "forward pass", "backward pass", "receive activations", "update"} <= set(named)
    assert not {"step 3", "step 6", "send activations"} & set(named)  # the last stage sends none
    forward = [event for event in events if event["name"] == "forward pass" and event.get("ph") == "X"]
    assert len(forward) == 2 * 4  # micro-batches of two steps
    text = (folder / "steps-4-5-rank-1.txt").read_text()
    print(text)
    shares = re.search(r"By part of the schedule.*?\n(.*?)\n\n", text, re.S)
    assert shares is not None
    assert sum(map(float, re.findall(r"([\d.]+)%", shares[1]))) == pytest.approx(100, abs=0.5)
    assert "matrix products" in text


def test_a_run_that_stops_early_leaves_what_it_has(tmp_path: Path) -> None:
    config = write_small_run(tmp_path)
    wanted = "monitor.profile={first_step: 2, last_step: 6, ranks: [0, 1]}"
    losses(config, wanted, "parallel.data=2", "monitor.memory_stop_share=0.99")  # no machine has so much memory free
    (summary,) = (config.parent / "3" / "profile").glob("*-rank-0.txt")
    first, last = map(int, re.findall(r"\d+", summary.name)[:2])
    assert first == 2 and last < 6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{first_step: 3, last_step: 2}", "last_step: 2 is before first_step 3"),
        ("{first_step: 3, last_step: 7}", "monitor.profile.last_step: 7 is not reached, the run ends after step 6"),
        ("{first_step: 3, last_step: 4, ranks: []}", "ranks"),
    ],
)
def test_what_cannot_be_profiled_is_named(given: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(TrainConfig, write_small_run(tmp_path), [f"monitor.profile={given}"])
    assert message in str(error.value)


def test_a_rank_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"monitor\.profile\.ranks: 2 must be below the number of processes, 2"):
        losses(write_small_run(tmp_path), "monitor.profile={first_step: 1, last_step: 2, ranks: [2]}")


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("nccl:all_reduce", "communication"),
        ("gloo:all_reduce", "communication"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "matrix products"),
        ("aten::addmm", "matrix products"),
        ("pytorch_flash::flash_fwd_kernel", "attention"),
        ("triton_tem_fused_flex_attention_backward_0", "attention"),
        ("aten::_fused_adamw_", "update"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("triton_poi_fused_add_mul_3", "elementwise and everything else"),
    ],
)
def test_kinds_of_operations(operation: str, kind: str) -> None:
    assert kind_of(operation) == kind
