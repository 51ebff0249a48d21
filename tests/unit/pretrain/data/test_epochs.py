"""Epochs and shares of warm-up become steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from foundation.configuration import ConfigError, load_config
from pretrain.config import TrainConfig
from pretrain.data.epochs import samples_of_an_epoch, with_steps
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import load_mixture
from tests.distributed.cases import tiny_config
from tests.masked_tokens import chats, write_masked

LENGTH = 24


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    return write_masked(folder, pack=LENGTH, talks=chats(1, 60, LENGTH), others=chats(2, 40, LENGTH))


def config_of(mixture: Path, **changes: Any) -> TrainConfig:
    return tiny_config(
        model__vocabulary_size=300, objective={"separate_documents": True}, data__mixture=str(mixture), **changes
    )


def test_an_epoch_has_each_pack_once(mixture: Path) -> None:
    loaded = load_mixture(mixture)
    reader = SampleReader(loaded, LENGTH, 1)
    packs = sum(dataset.packs for dataset in reader.datasets)
    assert samples_of_an_epoch(loaded, LENGTH) == packs == sum(entry.documents for entry in loaded.datasets)


@pytest.mark.parametrize(("epochs", "ratio"), [(1.0, 0.03), (2.5, 0.0), (3.0, 0.5)])
def test_steps_are_the_fewest_that_are_enough(mixture: Path, epochs: float, ratio: float) -> None:
    config = with_steps(config_of(mixture, schedule={"epochs": epochs, "warmup_ratio": ratio}))
    samples, steps, size = samples_of_an_epoch(load_mixture(mixture), LENGTH) * epochs, config.schedule.steps, 8
    assert (steps - 1) * size < samples <= steps * size
    assert config.schedule.epochs is None and config.schedule.warmup_ratio is None
    assert (
        config.schedule.warmup_steps is not None and steps * ratio <= config.schedule.warmup_steps < steps * ratio + 1
    )
    assert with_steps(config) == config


def test_a_growing_batch_is_counted_in_samples(mixture: Path) -> None:
    ramp = {"batch__ramp_up": {"start": 2, "increment": 2, "samples": 16}}
    config = with_steps(config_of(mixture, schedule={"epochs": 3, "warmup_steps": 1}, **ramp))
    samples = 3 * samples_of_an_epoch(load_mixture(mixture), LENGTH)
    assert (
        config.batch.sizes.after(config.schedule.steps - 1) < samples <= config.batch.sizes.after(config.schedule.steps)
    )


def test_a_share_of_given_steps(mixture: Path) -> None:
    config = with_steps(config_of(mixture, schedule={"total_steps": 101, "warmup_ratio": 0.03}))
    assert (config.schedule.total_steps, config.schedule.warmup_steps) == (101, 4)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"epochs": 1, "total_steps": 5, "warmup_steps": 0}, "epochs: has no effect beside total_steps"),
        ({"total_steps": 5, "warmup_steps": 0, "warmup_ratio": 0.1}, "warmup_ratio: has no effect beside warmup_steps"),
        ({"warmup_steps": 0}, "total_steps: missing; give it, or epochs"),
        ({"epochs": 1}, "warmup_steps: missing; give it, or warmup_ratio"),
        ({"epochs": 0, "warmup_steps": 0}, "epochs: 0 is not allowed"),
    ],
)
def test_what_is_refused(tmp_path: Path, mixture: Path, schedule: dict[str, Any], message: str) -> None:
    values = config_of(mixture).model_dump(mode="json")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**values, "schedule": schedule}))
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, tmp_path / "run.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [("phases", [{"from_sample": 8, "weights": {"talks": 1}}]), ("weights", {"talks": 1})]
)
def test_other_weights_have_no_epochs(mixture: Path, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"with data\.{name} a pass over the data has no certain length"):
        config_of(mixture, schedule={"epochs": 1, "warmup_steps": 0}, **{f"data__{name}": value})


def test_warm_up_as_long_as_the_epochs_is_refused(mixture: Path) -> None:
    config = config_of(mixture, schedule={"epochs": 1, "warmup_steps": 10_000})
    with pytest.raises(ValueError, match=r"schedule\.warmup_steps: 10000 must be less than schedule\.total_steps"):
        with_steps(config)
