"""Metrics survive kills and resumes with each step once; progress is readable; FLOPs follow their formula."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console

from foundation.configuration import load_config
from pretrain.config import ModelConfig, TrainConfig
from pretrain.monitor import flops
from pretrain.monitor.flops import (
    Peak,
    model_flops_per_token,
    peak_flops,
    precision_notes,
    recomputed_flops_per_token,
    training_flops_per_token,
)
from pretrain.monitor.goodput import Goodput
from pretrain.monitor.metrics import MetricsWriter, read_metrics
from pretrain.monitor.progress import TrainingProgress, format_parameters
from pretrain.monitor.weights_and_biases import WeightsAndBiases
from pretrain.topology import Topology

CONFIGS = Path(__file__).parents[3] / "configs" / "train"

PEAK = Peak(2e12, "measured")


def train_line(step: int, loss: float = 2.5) -> dict[str, Any]:
    return {
        "step": step,
        "loss": loss,
        "learning_rate": 1e-3,
        "gradient_norm": 0.5,
        "tokens_per_second": 3000.0,
        "mfu": 0.421,
    }


def write_steps(path: Path, resume_step: int, last_step: int, loss: float) -> None:
    metrics = MetricsWriter(path, resume_step)
    metrics.write("event", step=resume_step, event="resumed" if resume_step else "started")
    for step in range(resume_step + 1, last_step + 1):
        metrics.write("train", **train_line(step, loss))
    metrics.close()


def test_each_line_is_on_disk_when_it_is_written(tmp_path: Path) -> None:
    metrics = MetricsWriter(tmp_path / "train" / "metrics.jsonl", 0)
    metrics.write("train", **train_line(1))
    metrics.write("evaluation", step=1, loss=float("nan"))
    text = (tmp_path / "train" / "metrics.jsonl").read_text(encoding="utf-8")
    first, second = (json.loads(line) for line in text.splitlines())
    assert first == {"kind": "train", **train_line(1)}
    assert second == {"kind": "evaluation", "step": 1, "loss": "nan"}
    metrics.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_noted_and_raises_nothing(tmp_path: Path) -> None:
    metrics = MetricsWriter(tmp_path / "metrics.jsonl", 0)
    metrics.write("train", **train_line(1))
    assert metrics.no_room is None
    metrics._file.close()
    metrics._file = open("/dev/full", "a", encoding="utf-8")  # noqa: SIM115
    metrics.write("train", **train_line(2))
    assert f"No space left on device: {tmp_path / 'metrics.jsonl'}" in str(metrics.no_room)
    metrics.close()


def test_a_resume_moves_the_steps_that_are_done_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 0, 6, loss=3.0)
    write_steps(path, 4, 5, loss=2.0)
    write_steps(path, 4, 7, loss=1.0)
    train = [(line["step"], line["loss"]) for line in read_metrics(path) if line["kind"] == "train"]
    assert train == [(1, 3.0), (2, 3.0), (3, 3.0), (4, 3.0), (5, 1.0), (6, 1.0), (7, 1.0)]
    abandoned = [(line["step"], line["loss"]) for line in read_metrics(tmp_path / "metrics.abandoned.jsonl")]
    assert abandoned == [(5, 3.0), (6, 3.0), (5, 2.0)]


def test_a_new_run_abandons_all_of_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 0, 2, loss=3.0)
    write_steps(path, 0, 1, loss=1.0)
    assert [line["kind"] for line in read_metrics(path)] == ["event", "train"]
    assert len(read_metrics(tmp_path / "metrics.abandoned.jsonl")) == 3


def test_a_half_written_last_line_goes_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 0, 2, loss=3.0)
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"kind": "train", "st')
    write_steps(path, 2, 3, loss=1.0)
    assert [line["step"] for line in read_metrics(path)] == [0, 1, 2, 2, 3]
    path.write_text('{"kind": "event", "step": 0}\nnonsense\n{"kind": "event", "step": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: damaged line"):
        MetricsWriter(path, 1)


def test_tensorboard_gets_the_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_steps(tmp_path / "metrics.jsonl", 0, 3, loss=3.0)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [(1, 3.0), (2, 3.0), (3, 3.0)]


def test_flops_of_llama_7b() -> None:
    """By hand: 6 × (6,738,415,616 − 32000 × 4096) + 12 × 32 × 4096 × 2048."""
    model = load_config(TrainConfig, CONFIGS / "llama-7b.yaml").model
    assert model_flops_per_token(model, 2048) == 6 * 6_607_343_616 + 3_221_225_472


FAMILIES = {
    "llama": {"family": "llama", "feed_forward_size": 128},
    "gpt3": {"family": "gpt3", "feed_forward_size": 256},
    "palm": {"family": "palm", "feed_forward_size": 256, "key_value_heads": 1},
    "bloom": {"family": "bloom", "feed_forward_size": 256},
    "baichuan": {"family": "baichuan", "feed_forward_size": 128},
    "glm": {"family": "glm", "feed_forward_size": 256},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_are_those_of_the_products_that_torch_counts(family: str) -> None:
    """torch counts what the modules really multiply, on the meta device; ours adds norms and biases, and attention's
    future, which query blocks leave out."""
    from torch.utils.flop_counter import FlopCounterMode

    from pretrain.device import start_alone
    from pretrain.model.linear import TensorParallel
    from pretrain.model.pipeline import WholeModel

    if not torch.distributed.is_initialized():
        start_alone()
    shape = {"vocabulary_size": 1280, "hidden_size": 64, "layers": 4, "attention_heads": 4, "key_value_heads": 4}
    model = ModelConfig.model_validate({**shape, "maximum_positions": 128, **FAMILIES[family]})
    whole = WholeModel(model, TensorParallel(torch.distributed.group.WORLD, torch.float32))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        whole.eval()(torch.zeros(2, 128, dtype=torch.int64))
    forward = model_flops_per_token(model, 128) / 3
    assert counter.get_total_flops() / 256 == pytest.approx(forward, rel=0.02)  # one query block: no future left out
    attention = 4 * 4 * 4 * model.head_size * 128
    blocks = forward - 2 * 1280 * 64
    assert recomputed_flops_per_token(model, 128, "none") == 0
    assert recomputed_flops_per_token(model, 128, "selective") == attention
    assert recomputed_flops_per_token(model, 128, "full") == blocks


def test_frozen_weights_have_no_gradient_to_compute() -> None:
    """By hand, LLaMA 7B: two of six operations fewer for a frozen weight in a product, six for one of an adapter."""
    whole = 6 * 6_607_343_616 + 3_221_225_472
    overrides = ["initial_weights=base", "trainable=[embedding, head]"]
    config = load_config(TrainConfig, CONFIGS / "llama-7b.yaml", overrides)
    assert training_flops_per_token(config, 2048) == whole - 2 * (6_607_343_616 - 32000 * 4096)
    adapters = [*overrides, "adapter={rank: 8, alpha: 16, targets: [query, value]}"]
    config = load_config(TrainConfig, CONFIGS / "llama-7b.yaml", adapters)
    assert training_flops_per_token(config, 2048) == whole - 2 * (6_607_343_616 - 32000 * 4096) + 6 * 4_194_304


def test_the_peak_is_set_known_or_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    known = load_config(TrainConfig, CONFIGS / "demo.yaml", ["monitor={peak_flops_per_device: 2e11}"])
    assert str(peak_flops(known)) == "200.0 GFLOP/s a process, monitor.peak_flops_per_device"
    if not torch.cuda.is_available():
        for precision in ("bf16", "fp32"):
            measured = peak_flops(load_config(TrainConfig, CONFIGS / "demo.yaml", [f"precision={precision}"]))
            assert 0 < measured.flops_per_second < 1e15
            assert measured.source.startswith("measured at the start") and measured.source.endswith(precision)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 PCIe")
    sheet = peak_flops(load_config(TrainConfig, CONFIGS / "demo.yaml", ["precision=bf16"]))
    assert str(sheet) == "756.0 TFLOP/s a process, NVIDIA H100 PCIe in bf16 by its data sheet"


def test_fp32_is_advised_where_a_processor_multiplies_bf16_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {torch.float32: 6e10, torch.bfloat16: 1.2e9}
    monkeypatch.setattr(flops, "_measured_peak", lambda dtype: Peak(rates[dtype], "measured"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bf16, fp32 = (load_config(TrainConfig, CONFIGS / "demo.yaml", [f"precision={name}"]) for name in ("bf16", "fp32"))
    (note,) = precision_notes(bf16)
    assert "multiplies bf16 50 times as slowly as fp32; precision=fp32 is faster" in note
    assert precision_notes(fp32) == []
    rates[torch.bfloat16] = 3e10
    assert precision_notes(bf16) == []


def test_goodput_is_the_share_of_time_in_steps_that_stand() -> None:
    """100 s of start-up, ten steps of 10 s, of which one is dropped and three are rolled back and done again."""
    goodput = Goodput([], now=1000.0)
    for step in range(1, 11):
        goodput.step(step, 10.0, counts=step != 4)
    assert goodput.share(1200.0) == pytest.approx(90 / 200)
    goodput.roll_back(7)
    assert goodput.share(1200.0) == pytest.approx(60 / 200)
    for step in (8, 9, 10):
        goodput.step(step, 10.0, counts=True)
    assert goodput.share(1230.0) == pytest.approx(90 / 230)


def test_goodput_goes_on_over_a_restart() -> None:
    """The lines of the first process are what the second knows; the hour between them is lost."""
    kept: list[dict[str, Any]] = [{"kind": "event", "step": 0, "event": "started", "time": 0.0}]
    kept += [{"kind": "train", "step": step, "step_seconds": 10.0, "time": 10.0 * step} for step in (1, 2, 3)]
    kept[2]["dropped"] = True
    goodput = Goodput(kept, now=3630.0)
    goodput.step(4, 10.0, counts=True)
    assert goodput.share(3640.0) == pytest.approx(30 / 3640)


def test_a_log_gets_plain_lines() -> None:
    config = load_config(TrainConfig, CONFIGS / "demo.yaml", ["schedule={total_steps: 8, warmup_steps: 1}"])
    out = io.StringIO()
    progress = TrainingProgress(config, Topology(pipe=2, data=2, tensor=2), 2, 5, Console(file=out, width=40))
    progress.start(["rank 3 is slow"], PEAK)
    for step in (3, 4, 5):
        progress.step(train_line(step))
    progress.evaluation(5, 2.25)
    progress.saved(Path("checkpoints/step-00000005"))
    progress.finish()
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("training ") and "tensor 2 × pipeline 2 × data 2" in lines[0]
    assert lines[1:3] == ["note: rank 3 is slow", "continuing from the checkpoint of step 2, to step 5"]
    assert lines[3] == "MFU is relative to 2.0 TFLOP/s a process, measured"
    assert lines[4].endswith("altiplano status runs/demo/train")
    first, last = lines[5:7]
    assert first.startswith("step 3/5  loss 2.5000  lr 1.00e-03  grad 0.50  3,000 tokens/s  MFU 42.1%  ")
    assert first.endswith(" left") and last.startswith("step 5/5") and last.endswith("MFU 42.1%")
    assert lines[7:9] == ["step 5: held-out loss 2.2500", "saved checkpoints/step-00000005"]
    assert lines[9].startswith("trained 3 steps in ")
    assert lines[9].endswith("(held-out 2.2500); stopped as requested, 3 steps remain")


def test_the_first_line_counts_what_is_trained() -> None:
    overrides = ["initial_weights=base", "adapter={rank: 8, alpha: 16, targets: [query, value]}"]
    config = load_config(TrainConfig, CONFIGS / "llama-7b.yaml", overrides)
    out = io.StringIO()
    progress = TrainingProgress(config, Topology(pipe=1, data=1, tensor=2), 0, 5, Console(file=out, width=200))
    progress.start([], PEAK)
    assert out.getvalue().startswith("training 4,194,304 weights (0.06%) beside 6,738.4 M parameters, tensor 2")


def test_a_finished_run_says_so() -> None:
    config = load_config(TrainConfig, CONFIGS / "demo.yaml")
    out = io.StringIO()
    progress = TrainingProgress(config, Topology(pipe=2, data=2, tensor=2), 5, 5, Console(file=out))
    progress.start([], PEAK)
    progress.finish()
    assert "all 5 steps are done already" in out.getvalue()


def test_small_models_are_counted_in_thousands() -> None:
    told = [format_parameters(count) for count in (29_472, 999_999, 1_000_000, 6_738_415_616)]
    assert told == ["29.5 k parameters", "1.0 M parameters", "1.0 M parameters", "6,738.4 M parameters"]


@pytest.mark.parametrize(("width", "seen"), [(160, ("lr", "grad", "held-out")), (80, ("grad",)), (70, ())])
def test_a_terminal_gets_a_live_line_that_fits(width: int, seen: tuple[str, ...]) -> None:
    config = load_config(TrainConfig, CONFIGS / "demo.yaml")
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True)
    progress = TrainingProgress(config, Topology(pipe=2, data=2, tensor=2), 0, 160, console)
    progress.start([], PEAK)
    progress.evaluation(0, 2.25)
    progress.step(train_line(99))
    progress.finish()
    (line,) = {line for line in out.getvalue().replace("\r", "\n").splitlines() if "step 99/160" in line}
    for part in ("loss 2.5000", "3,000 tokens/s", "MFU 42.1%", " left"):
        assert part in line
    assert [part for part in ("lr", "grad", "held-out") if part in line] == list(seen)


class FakeWandb(ModuleType):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.settings: dict[str, Any] = {}
        self.logged: list[dict[str, Any]] = []
        self.finished = 0

    def init(self, **settings: Any) -> FakeWandb:
        self.settings = settings
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


def test_weights_and_biases_gets_the_scalars_and_no_second_run_after_a_rollback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    board = WeightsAndBiases("altiplano", tmp_path / "demo" / "train", {"seed": 1})
    assert wandb.settings["project"] == "altiplano" and wandb.settings["name"] == "demo/train"
    assert wandb.settings["resume"] == "allow" and wandb.settings["config"] == {"seed": 1}
    writer = MetricsWriter(tmp_path / "metrics.jsonl", 0, board)
    writer.write("train", step=1, loss=2.5, dropped="no number")
    writer.write("event", step=1, event="saved")
    writer.roll_back(0, "abandoned-01")
    writer.write("train", step=1, loss=2.0)
    assert wandb.finished == 0
    writer.close()
    assert wandb.logged == [{"step": 1, "train/loss": 2.5}, {"step": 1, "train/loss": 2.0}]
    assert wandb.finished == 1


def test_weights_and_biases_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"monitor.wandb_project: 'p' needs wandb: pip install wandb"):
        WeightsAndBiases("p", tmp_path, {})
