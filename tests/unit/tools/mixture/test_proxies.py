"""The runs of a search: their weights, their files, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundation.configuration import load_config
from pretrain.config import RESOLVED_FILE, TrainConfig
from pretrain.data.mixture import load_mixture
from pretrain.monitor.metrics import METRICS_FILE
from tests.unit.tools.mixture.searched import write_search
from tools.mixture.__main__ import main
from tools.mixture.law import LEAST_WEIGHT
from tools.mixture.proxies import losses_of, proxies_of, write_proxies
from tools.mixture.settings import MixtureConfig


def proxies(folder: Path, **settings: Any) -> Any:
    return proxies_of(load_config(MixtureConfig, write_search(folder, **settings)))


def test_runs_differ_in_weights_and_seed_alone(tmp_path: Path) -> None:
    found = proxies(tmp_path, repeats=3)
    assert [proxy.name for proxy in found.all()] == [f"given-{i}" for i in range(3)] + [
        f"run-{i:03d}" for i in range(6)
    ]
    seeds = [proxy.rung.config.seed for proxy in (*found.all(), found.best(np.array([0.5, 0.5])))]
    assert len(set(seeds)) == len(seeds)
    for proxy in found.given:
        np.testing.assert_allclose(proxy.weights, [0.25, 0.75])
    drawn = np.array([proxy.weights for proxy in found.random])
    np.testing.assert_allclose(drawn.sum(axis=1), 1)
    assert drawn.min() >= LEAST_WEIGHT / 2 and drawn.std(axis=0).min() > 0.05
    again = proxies(tmp_path, repeats=3)
    np.testing.assert_array_equal(drawn, [proxy.weights for proxy in again.random])


def test_each_run_can_be_trained_as_it_is_written(tmp_path: Path) -> None:
    found = proxies(tmp_path)
    write_proxies(found, found.all())
    for proxy in found.all():
        config = load_config(TrainConfig, proxy.rung.config_file)
        mixture = load_mixture(config.data.mixture)
        assert [entry.weight for entry in mixture.datasets] == pytest.approx(list(proxy.weights))
        for entry in mixture.datasets:
            for split in ("train", "heldout"):
                assert mixture.open(entry, split) is not None  # type: ignore[arg-type]
        assert config.evaluation.every_steps == config.schedule.steps == 40


def test_small_sources_limit_the_weights(tmp_path: Path) -> None:
    """10,240 tokens a run; of the sources there are about 14,000 and 23,500."""
    found = proxies(tmp_path, maximum_epochs=0.5)
    tokens = [entry.tokens for entry in found.mixture.datasets]
    own = 0.5 * np.array(tokens) / 10240
    for proxy in found.random:
        assert (proxy.weights <= own + 1e-9).all()
    np.testing.assert_allclose(proxies(tmp_path, tokens=1e5).most, np.minimum(1, 4 * np.array(tokens) / 1e5))


def test_a_finished_run_gives_its_losses_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    found = proxies(tmp_path)
    proxy = found.random[0]
    assert losses_of(proxy, found.judged) is None
    write_proxies(found, found.all())
    folder = proxy.rung.folder
    (folder / RESOLVED_FILE).write_text(proxy.rung.config_file.read_text())
    line = '{"kind": "evaluation", "step": 40, "loss": 2.5, "loss/text": 2.0, "loss/other": 3.0}\n'
    (folder / METRICS_FILE).write_text(line.replace("40", "20"))
    assert losses_of(proxy, found.judged) is None, "not finished"
    (folder / METRICS_FILE).write_text(line)
    np.testing.assert_array_equal(losses_of(proxy, ("text", "other")), [2.0, 3.0])
    other = proxies(tmp_path, seed=1).random[0]
    with pytest.raises(ValueError, match="run with other weights than the search now has"):
        losses_of(other, found.judged)
    longer = proxies(tmp_path, steps=80).random[0]
    with pytest.raises(ValueError, match=r"run with .*=40, and the search now has 80"):
        losses_of(longer, found.judged)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"goal": {"nothing": 1}}, "goal.nothing: nothing of it is held out; there are text, other"),
        ({"goal": {"text": -1}}, "goal: weights must not be negative"),
        ({"strengths": [2, 1]}, "strengths: 2 to 1 must be positive and in order"),
        ({"maximum_epochs": 0.1}, "tokens are more than 0.1 passes over all"),
        ({"repeats": 1}, "repeats"),
    ],
)
def test_wrong_settings_are_named(
    tmp_path: Path, settings: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(write_search(tmp_path, **settings))]) == 2
    assert message in capsys.readouterr().err


def test_nothing_is_fitted_before_runs_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_search(tmp_path))
    assert main(["plan", path]) == 0
    assert "8 runs, 0 of them finished" in " ".join(capsys.readouterr().out.split())  # the table's title is broken
    assert main(["fit", path]) == 1 and "no run is finished" in capsys.readouterr().err
    assert main(["check", path]) == 2 and "run `altiplano mixture fit" in capsys.readouterr().err
