"""The command `altiplano ladder`, on rungs whose losses follow a known law."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from foundation.configuration import load_config, write_resolved
from pretrain.config import RESOLVED_FILE, TrainConfig
from pretrain.monitor.metrics import METRICS_FILE
from tests.unit.tools.ladder.climbed import HELD_OUT_TOKENS, LAW, climb, opened, size, write_ladder, write_run
from tools.ladder.__main__ import main
from tools.ladder.run import RUNGS_FILE, ranges, slurm_command
from tools.ladder.rungs import points_table, results_of


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    capsys.readouterr()
    assert main(arguments) == code
    return capsys.readouterr().err


def target_of(path: Path, *overrides: str) -> TrainConfig:
    ladder, _ = opened(path)
    return load_config(TrainConfig, ladder.train, overrides)


def finish_target(path: Path, loss: float, tokens: int = HELD_OUT_TOKENS) -> Path:
    target = target_of(path)
    target.output.mkdir(parents=True, exist_ok=True)
    write_resolved(target, target.output / RESOLVED_FILE)
    line = {"kind": "evaluation", "step": target.schedule.steps, "loss": loss, "tokens": tokens}
    (target.output / METRICS_FILE).write_text(json.dumps(line) + "\n")
    return target.output


def test_rungs_are_ordinary_runs_like_the_large_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_ladder(tmp_path)
    assert main(["plan", str(path)]) == 0
    told = capsys.readouterr().out
    assert "11 rungs over a factor of" in told and "next: altiplano ladder run" in told
    ladder, rungs = opened(path)
    files = (ladder.output / RUNGS_FILE).read_text().splitlines()
    assert [load_config(TrainConfig, Path(file)) for file in files] == [rung.config for rung in rungs]
    names = {rung.name: rung for rung in rungs}
    assert {"a-20", "a-20-seed-7", "a-20-seed-8", "c-80"} <= names.keys()
    large, rung = target_of(path), names["c-80"]
    assert rung.config.optimizer.learning_rate == 1e-3 and names["b-80"].config.optimizer == large.optimizer
    assert rung.parameters == 300 * 24 * 2 + 2 * (4 * 24**2 + 3 * 24 * 48 + 2 * 24) + 24
    assert rung.tokens == rung.config.schedule.steps * 8 * 32
    assert 0 <= rung.tokens - 80 * rung.parameters < 8 * 32, "whole steps, and not fewer tokens"
    assert rung.config.schedule.warmup == -(-rung.config.schedule.steps // 20), "4,000 of 40,000 are a tenth: too long"
    assert rung.config.evaluation.every_steps == rung.config.schedule.steps


def test_the_shape_of_the_schedule_is_kept(tmp_path: Path) -> None:
    path = write_ladder(tmp_path)
    values = yaml.safe_load((tmp_path / "train.yaml").read_text())
    values["schedule"] = {"kind": "wsd", "total_steps": 40_000, "warmup_steps": 800, "decay_steps": 8000}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(values))
    for rung in opened(path)[1]:
        schedule = rung.config.schedule
        assert schedule.decay_steps == pytest.approx(schedule.steps / 5, abs=1)
        assert schedule.warmup == pytest.approx(schedule.steps / 50, abs=1)


def test_fit_predict_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_ladder(tmp_path)
    ladder, _ = climb(path, noise=0.0)
    assert main(["fit", str(path)]) == 0
    found = json.loads((ladder.output / "fit.json").read_text())
    assert found["law"]["E"] == pytest.approx(LAW.E, rel=1e-3) and found["refused"] is None
    assert "<svg" in (ladder.output / "ladder.html").read_text()
    assert main(["predict", str(path)]) == 0
    (file,) = (ladder.output / "predictions").iterdir()
    made = json.loads(file.read_text())
    expected = LAW(made["parameters"], made["tokens"])
    assert made["loss"] == pytest.approx(expected, rel=1e-3)
    assert made["low"] < made["loss"] < made["high"]
    before = file.read_bytes()
    assert main(["predict", str(path)]) == 0 and file.read_bytes() == before, "what was predicted stays"

    run = finish_target(path, expected)
    capsys.readouterr()
    assert main(["check", str(path), str(run)]) == 0
    assert "inside the interval" in capsys.readouterr().out
    finish_target(path, expected * 1.1)
    assert main(["check", str(path), str(run)]) == 1
    assert "+10.00%: OUTSIDE the interval" in capsys.readouterr().out
    assert main(["fit", str(path)]) == 0
    assert "OUTSIDE the interval" in (ladder.output / "ladder.html").read_text()


def test_what_is_predicted_late_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_ladder(tmp_path)
    climb(path)
    run = finish_target(path, 3.0)
    assert "the run has begun" in refused(capsys, "predict", str(path), code=1)
    assert "was not predicted by" in refused(capsys, "check", str(path), str(run))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.rope_theta=5", "model.rope_theta: 5.0, and the rungs have 10000.0: their law is not that of this run"),
        ("optimizer.weight_decay=0", "optimizer.weight_decay: 0.0, and the rungs have 0.1"),
        ("evaluation.batches=1", "evaluation.batches: 1 batches of 8 are not the whole held-out part of"),
        ("data.mixture=other.yaml", "data.mixture: other.yaml"),
    ],
)
def test_other_runs_are_refused(
    override: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_ladder(tmp_path)
    climb(path)
    assert message in refused(capsys, "predict", str(path), "--set", override)


def test_a_run_evaluated_on_other_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_ladder(tmp_path)
    climb(path)
    assert main(["predict", str(path)]) == 0
    run = finish_target(path, 3.0, tokens=64)
    message = refused(capsys, "check", str(path), str(run))
    assert f"evaluated on 64 held-out tokens, and the rungs on {HELD_OUT_TOKENS:,}" in message


def test_rungs_of_other_data_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_ladder(tmp_path)
    ladder, rungs = climb(path)
    results_of(ladder, rungs[:-1])  # as `run` does while the others are not finished
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text(mixture.read_text() + "# made again\n")
    assert f"{rungs[-1].name} was trained on other token files" in refused(capsys, "fit", str(path))


def test_rungs_of_other_settings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_ladder(tmp_path)
    climb(path)
    values = yaml.safe_load(path.read_text())
    values["sizes"]["c"]["learning_rate"] = 2e-3
    path.write_text(yaml.safe_dump(values))
    message = refused(capsys, "fit", str(path))
    assert "c-20: run with optimizer.learning_rate=0.001, and the ladder now has 0.002" in message


def test_unfinished_rungs_do_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_ladder(tmp_path)
    _, rungs = climb(path)
    metrics = rungs[-1].folder / METRICS_FILE
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    assert "8 finished rungs are too few" in refused(capsys, "fit", str(path), code=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens_per_parameter": [10, 40]}, "tokens_per_parameter: 10 is too few: below 20 tokens"),
        ({"tokens_per_parameter": [20, 20]}, "tokens_per_parameter: [20.0, 20.0] has a length twice"),
        ({"sizes": {"a": size(8, 1, tokens_per_parameter=[5])}, "repeats": []}, "5 is too few"),
        ({"sizes": {"a": size(9, 1)}, "repeats": []}, "sizes.a: hidden_size: 9 must be a multiple of"),
        (
            {"repeats": [{"size": "d", "tokens_per_parameter": 20, "seeds": [1]}]},
            "repeats.0.size: 'd' is none of the sizes a, b, c",
        ),
        (
            {"repeats": [{"size": "a", "tokens_per_parameter": 30, "seeds": [1]}]},
            "repeats.0.tokens_per_parameter: 30 is no length of size a: 20, 40, 80",
        ),
        ({"tokens_per_parameter": [20, 40, 2000]}, "from 4 on, repeated tokens are worth less"),
    ],
)
def test_wrong_ladders(
    changes: dict[str, object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "plan", str(write_ladder(tmp_path, **changes)))


def test_runs_that_follow_no_law_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_ladder(tmp_path)
    values = yaml.safe_load((tmp_path / "train.yaml").read_text())
    values["initial_weights"] = "somewhere"
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(values))
    assert "initial_weights: a run with it follows no law of size and length" in refused(capsys, "plan", str(path))


def test_runs_from_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, rungs = climb(write_ladder(tmp_path), noise=0.0)
    ladder, _ = opened(tmp_path / "ladder.yaml")
    table = tmp_path / "points.csv"
    table.write_text(points_table(results_of(ladder, rungs)))
    assert main(["fit", "--points", str(table)]) == 0
    assert "1.1 " in capsys.readouterr().out and (tmp_path / "points.html").is_file()
    table.write_text("parameters,tokens,loss\n1000,20000,3.1\n1000,x,3\n")
    assert f"{table}:3: tokens: 'x' is not a number" in refused(capsys, "fit", "--points", str(table))
    table.write_text("parameters,tokens,loss\n1000,20000,-3\n")
    assert f"{table}:2: loss: -3 must be a positive number" in refused(capsys, "fit", "--points", str(table))
    table.write_text("parameters,loss\n")
    assert f"{table}:1: no column tokens" in refused(capsys, "fit", "--points", str(table))
    assert "give the YAML file of a ladder, or --points" in refused(capsys, "fit")


def test_a_law_that_predicts_nothing_is_shown_and_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Losses that do not depend on the size."""
    table = tmp_path / "points.csv"
    lines = [f"{n},{n * k},{1 + 300 / (n * k) ** 0.37}" for n in (10**4, 10**5, 10**6) for k in (20, 40, 80)]
    table.write_text("\n".join(["parameters,tokens,loss", *lines]))
    message = refused(capsys, "fit", "--points", str(table), code=1)
    assert "no prediction can be made: α of the law is on its bound" in message
    assert "α of the law is on its bound" in (tmp_path / "points.html").read_text()


def test_an_array_of_jobs(tmp_path: Path) -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    command = slurm_command(tmp_path, [0, 1, 3], ["--nodes=1"])
    assert command == ["sbatch", "--array=0-1,3", "--nodes=1", "slurm/pretrain.sbatch", str(tmp_path / RUNGS_FILE)]


def test_losses_of_the_same_run_are_read_once(tmp_path: Path) -> None:
    """Gathered numbers are those of the run, with the curve of its training."""
    ladder, rungs = climb(write_ladder(tmp_path))
    first = results_of(ladder, rungs)
    write_run(rungs[0], 9.9)
    assert results_of(ladder, rungs) == first
    assert len(first[0].curve) > 20 and first[0].curve[-1][1] == pytest.approx(first[0].loss, rel=0.05)
