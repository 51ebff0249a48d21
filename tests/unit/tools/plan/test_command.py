"""`altiplano plan`: which layouts it finds, and what it tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundation.configuration import load_config
from pretrain.config import TrainConfig
from tools.plan.__main__ import main
from tools.plan.calibration import Calibration, Collective, Computation, Spent, settings_of, write_calibration
from tools.plan.cost import Layout
from tools.plan.hardware import HARDWARE
from tools.plan.search import search, timer_of

BLOOM, LLAMA, DEMO = (Path(f"configs/train/{name}.yaml") for name in ("bloom-176b", "llama-7b", "demo"))
A100, H100 = timer_of(HARDWARE["a100"]), timer_of(HARDWARE["h100"])
PUBLISHED = ["parallel.tensor=4", "parallel.pipeline=12", "batch.micro_batch_size=2", "recomputation=full"]
"""Le Scao et al. 2022, arXiv:2211.05100, section 3.3."""


def test_blooms_published_setting_fits_and_less_does_not() -> None:
    found = search(BLOOM, PUBLISHED, 384, 8, 80e9, A100)
    assert [candidate.layout for candidate in found.best] == [Layout(4, 12, 8, 2, 128, True, "full")]
    assert found.tried == 1 and not found.too_large
    small = search(BLOOM, [], 32, 8, 80e9, A100)
    assert not small.best and small.tried > 20
    totals = [candidate.memory.total for candidate in small.too_large]
    assert len(totals) == small.tried and totals == sorted(totals) and totals[0] > 80e9


def test_the_fastest_that_fit_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    """Every layout that is faster than the third does not fit, and all of them fit the batch."""
    found = search(LLAMA, [], 64, 8, 40 * 2**30, H100)
    times = [candidate.time.total for candidate in found.best]
    assert len(times) == 3 and times == sorted(times)
    assert found.too_large and all(candidate.time.total <= times[-1] for candidate in found.too_large)
    assert all(candidate.memory.total > 40 * 2**30 for candidate in found.too_large)
    for candidate in found.best + found.too_large:
        assert candidate.layout.devices == 64 and candidate.layout.samples == 2048
        assert candidate.config.batch.micro_batch_size == candidate.layout.micro_batch_size


def test_a_growing_batch_divides_at_each_of_its_sizes() -> None:
    """BLOOM's batch grows from 192 in steps of 16 samples: with data 8, a micro-batch of 4 would not divide it."""
    found = search(BLOOM, ["parallel.tensor=4", "parallel.pipeline=12"], 384, 8, 1e15, A100, wanted=100)
    assert {candidate.layout.micro_batch_size for candidate in found.best} == {1, 2}


def test_the_answer_can_be_given_to_train(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(LLAMA), "--devices", "64", "--price", "2"]) == 0
    printed = capsys.readouterr().out
    assert "6.74 G parameters" in printed and "at 2 an hour" in printed and "MWh" in printed
    settings = printed.rsplit("altiplano train …", 1)[1].split()
    assert main([str(LLAMA), "--devices", "64", *settings]) == 0
    again = capsys.readouterr().out
    assert "1 layouts" in again and again.rsplit("altiplano train …", 1)[1].split() == settings


def test_nothing_fits_and_the_answer_says_what_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(BLOOM), "--devices", "32"]) == 1
    printed = capsys.readouterr().out
    assert "none fits" in printed and "more devices" in printed


LONG = ["data.sequence_length=65536", "model.maximum_positions=65536", "batch.global_batch_size=32"]


def test_long_samples_are_divided(capsys: pytest.CaptureFixture[str]) -> None:
    """Over the context axis, but not into less than 4,096 tokens a rank; short ones are not."""
    found = search(LLAMA, LONG, 128, 8, 1e15, H100, wanted=10_000)
    assert {candidate.layout.context for candidate in found.best} == {1, 2, 4, 8, 16}
    assert {candidate.layout.devices for candidate in found.best} == {128}
    given = search(LLAMA, [*LONG, "parallel.context=32"], 128, 8, 1e15, H100, wanted=10_000)
    assert given.best and {candidate.layout.context for candidate in given.best} == {32}
    assert {one.layout.context for one in search(LLAMA, [], 64, 8, 1e15, H100, wanted=10_000).best} == {1}
    assert main([str(LLAMA), "--devices", "128", *LONG]) == 0
    printed = capsys.readouterr().out
    assert "context" in printed and "parallel.context=" in printed.rsplit("altiplano train …", 1)[1]


def test_preferred_degrees_do_not_stop_the_search(tmp_path: Path) -> None:
    text = LLAMA.read_text().replace("  tensor: 2\n", "  preferred: [{tensor: 2}]\n")
    (tmp_path / "train.yaml").write_text(text.replace("../model", str(Path("configs/model").absolute())))
    found = search(LLAMA, [], 16, 8, 72 * 2**30, H100)
    assert search(tmp_path / "train.yaml", [], 16, 8, 72 * 2**30, H100).tried == found.tried


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paralel.tensor=2"], "did you mean 'parallel'?"),
        (["--devices", "71"], "no layout of 71 devices divides"),
        (["precision=fp32"], "precision: fp32 on GPUs has no published speeds"),
    ],
)
def test_wrong_settings_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(BLOOM), "--devices", "32", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_numbers_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(BLOOM), "--devices", "32", "--price", "-1"])
    assert "--price: -1.0 must be positive" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--measure"], "--measure: only on a machine that is at hand"),
        (["--calibrate", "a", "--calibration", "b"], "the first makes what the second reads"),
        (["--calibration", "b", "--gpu", "a100"], "have no effect with what was measured"),
        (["--calibration", "b", "--price", "2"], "have no effect with what was measured"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(LLAMA), "--devices", "2", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["parallel.sequence=true"], "parallel.sequence: is not measured"),
        (["initial_weights=x", "trainable=[layers.3.mlp]"], "trainable, adapter: are not measured"),
        ([], "machine.yaml: No such file or directory; make one with --calibrate"),
    ],
)
def test_what_is_not_measured_is_refused(settings: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(LLAMA), "--devices", "2", "--calibration", "machine.yaml", *settings]) == 2
    assert message in capsys.readouterr().err


def _busy(processes: int, block: float) -> Computation:
    return Computation(processes, *(Spent(one, one) for one in (block, 0.01, 0.001, 0.001)))


def test_a_measured_machine_is_planned_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(TrainConfig, DEMO)
    free = Collective((1, 2), (0.0, 0.0), (0.0, 0.0))
    speed = {1: [_busy(1, 0.02)], 2: [_busy(2, 0.015)]}
    ranks = {2: free}
    write_calibration(
        tmp_path / "machine.yaml", Calibration("a processor", 2, settings_of(config), speed, ranks, ranks, ranks)
    )
    assert main([str(DEMO), "--devices", "2", "--calibration", str(tmp_path / "machine.yaml")]) == 0
    printed = capsys.readouterr().out
    assert "2 processes, a processor" in printed and "GPU hours" not in printed
    assert "3 layouts; the fastest that fit" in printed


def test_epochs_without_data_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = LLAMA.read_text().replace("total_steps: 238419 # 1.0 T tokens", "epochs: 3")
    text = text.replace("warmup_steps: 2000", "warmup_ratio: 0.03")
    text = text.replace("../model", str(Path("configs/model").absolute()))
    (tmp_path / "train.yaml").write_text(text)
    main([str(tmp_path / "train.yaml"), "--devices", "8"])
    assert "G tokens a step (schedule.epochs need data.mixture to be counted)" in capsys.readouterr().out
