"""The small runs of a search: an ordinary run each, on weights of its own, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foundation.configuration import ConfigError, load_config, write_resolved, write_yaml
from pretrain.config import RESOLVED_FILE, TrainConfig
from pretrain.data.epochs import with_steps
from pretrain.data.mixture import MixtureFile, load_mixture
from pretrain.monitor.metrics import METRICS_FILE, read_metrics
from tools.ladder.rungs import WHOLE_HELD_OUT, Rung, cost_of, difference
from tools.mixture.law import LEAST_WEIGHT, Array, capped
from tools.mixture.settings import MixtureConfig

MIXTURE_FILE = "mixture.yaml"
BEST = "best"
"""Name of the run on the predicted weights."""
GIVEN = "given"
"""Name of the runs on the weights that `train` has."""

_PLACE = ("output", "parallel.", "checkpoint.", "monitor.", "compile", "attention_backend", "deterministic", "check")
"""Settings by which a run's loss changes by rounding at most."""


@dataclass(frozen=True)
class Proxy:
    """A small run and its weights, by source in the order of the mixture."""

    rung: Rung
    weights: Array

    @property
    def name(self) -> str:
        return self.rung.name


@dataclass(frozen=True)
class Proxies:
    """All small runs of a search.

    Attributes:
        sources: names of the sources.
        judged: names of those with a held-out part that counts, in the order of the mixture.
        shares: their weights in the goal, which sum to one.
        most: largest weight of each source in the run that the mixture is for.
        random: runs on random weights.
        given: runs on the weights of `train`, with several seeds.
    """

    settings: MixtureConfig
    mixture: MixtureFile
    base: TrainConfig
    sources: tuple[str, ...]
    judged: tuple[str, ...]
    shares: Array
    most: Array
    random: tuple[Proxy, ...]
    given: tuple[Proxy, ...]

    def all(self) -> tuple[Proxy, ...]:
        return self.given + self.random

    def best(self, weights: Array) -> Proxy:
        """The run on the predicted weights, with a seed that no other run has."""
        seed = self.base.seed + self.settings.runs + self.settings.repeats
        return _proxy(self.settings, self.base, BEST, weights, seed)


def proxies_of(settings: MixtureConfig) -> Proxies:
    """The runs of a search.

    Raises:
        ValueError: the configuration of the small run is invalid, or the goal names a source that is not held out.
    """
    base = with_steps(load_config(TrainConfig, settings.train))
    mixture = load_mixture(base.data.mixture)
    sources = tuple(entry.name for entry in mixture.datasets)
    held_out = [entry.name for entry in mixture.datasets if entry.heldout is not None]
    if len(sources) < 2:
        raise ConfigError(f"{mixture.path}: {len(sources)} source: there is nothing to weigh")
    goal = settings.goal or dict.fromkeys(held_out, 1.0)
    for name in goal:
        if name not in held_out:
            raise ConfigError(f"goal.{name}: nothing of it is held out; there are {', '.join(held_out) or 'none'}")
    judged = tuple(name for name in held_out if goal.get(name, 0) > 0)
    shares = np.array([goal[name] for name in judged])
    tokens = np.array([float(entry.tokens) for entry in mixture.datasets])
    own_tokens = cost_of(base).tokens
    own_most, most = (
        np.minimum(1.0, settings.maximum_epochs * tokens / wanted)
        for wanted in (own_tokens, settings.tokens or own_tokens)
    )
    if own_most.sum() < 1:
        raise ConfigError(
            f"{settings.train}: {own_tokens:,} tokens are more than {settings.maximum_epochs:g} passes over all "
            f"{tokens.sum():,.0f} tokens of the sources; make the run shorter"
        )
    weights = np.array([entry.weight for entry in mixture.datasets])
    given = [
        _proxy(settings, base, f"{GIVEN}-{number}", weights / weights.sum(), base.seed + number)
        for number in range(settings.repeats)
    ]
    random = [
        _proxy(settings, base, f"run-{number:03d}", drawn, base.seed + settings.repeats + number)
        for number, drawn in enumerate(random_weights(settings, tokens / tokens.sum(), own_most))
    ]
    return Proxies(
        settings,
        mixture,
        base,
        sources,
        judged,
        shares / shares.sum(),
        most,
        tuple(random),
        tuple(given),
    )


def random_weights(settings: MixtureConfig, shares_S: Array, most_S: Array) -> Array:
    """Weights [R, S]: Dirichlet around the sources' shares of the tokens, with a strength that is uniform on a
    logarithmic scale (Liu et al. 2024, arXiv:2407.01492, appendix A). Shares below that of an even mixture are raised
    half way to it, so that small sources are learnt from too."""
    generator = np.random.default_rng(settings.seed)
    around = (shares_S + 1 / len(shares_S)) / 2
    low, high = np.log(settings.strengths)
    rows = []
    for _ in range(settings.runs):
        strength = np.exp(generator.uniform(low, high)) * len(shares_S)
        drawn = np.maximum(generator.dirichlet(around * strength), LEAST_WEIGHT)
        rows.append(capped(drawn, most_S))
    return np.array(rows)


def _proxy(settings: MixtureConfig, base: TrainConfig, name: str, weights: Array, seed: int) -> Proxy:
    folder = settings.output / "runs" / name
    values = base.model_dump(mode="json")
    values |= {"output": str(folder), "seed": seed}
    values["data"] |= {"mixture": str(folder / MIXTURE_FILE)}
    values["evaluation"] = {"batches": WHOLE_HELD_OUT, "every_steps": base.schedule.steps}
    config = TrainConfig.model_validate(values)
    return Proxy(Rung(name, config, *cost_of(config)), weights)


def write_proxies(proxies: Proxies, which: Sequence[Proxy]) -> None:
    """Write the mixture and the configuration of each run."""
    for proxy in which:
        folder = proxy.rung.folder
        folder.mkdir(parents=True, exist_ok=True)
        write_mixture(proxies.mixture, proxy.weights, folder / MIXTURE_FILE)
        write_resolved(proxy.rung.config, proxy.rung.config_file)


def write_mixture(mixture: MixtureFile, weights: Array, path: Path, held_out: MixtureFile | None = None) -> None:
    """The same token files with other weights; their paths are relative to `path`.

    Args:
        held_out: mixture whose held-out parts take the place of this one's, source by source.
    """

    def moved(relative: str, of: MixtureFile = mixture) -> str:
        return os.path.relpath(of.path.parent / relative, path.parent)

    values = mixture.settings.model_dump(mode="json", exclude_none=False)
    values["tokenizer"] = moved(values["tokenizer"])
    others = {} if held_out is None else {entry.name: entry.model_dump(mode="json") for entry in held_out.datasets}
    for entry, weight in zip(values["datasets"], weights, strict=True):
        entry["path"] = moved(entry["path"])
        if held_out is not None:
            own = others.get(entry["name"], {"heldout_documents": 0, "heldout_tokens": 0})
            for name in [name for name in entry if name.startswith("heldout")]:
                entry[name] = own.get(name)
        entry["heldout"] = None if entry["heldout"] is None else moved(entry["heldout"], held_out or mixture)
        entry["weight"] = float(weight)
        for name in [name for name, value in entry.items() if value is None and name != "heldout"]:
            if name != "heldout_sha256":
                del entry[name]
        for sums in (entry["sha256"], entry["heldout_sha256"]):
            if sums is not None and sums.get("loss_mask") is None:
                sums.pop("loss_mask", None)
    write_yaml(path, values)


def losses_of(proxy: Proxy, judged: Sequence[str]) -> Array | None:
    """Held-out loss of each judged source after the last step; None while the run is not finished.

    Raises:
        ValueError: the run had other settings or weights than the search now gives it.
    """
    folder = proxy.rung.folder
    if not (folder / RESOLVED_FILE).is_file() or not (folder / METRICS_FILE).is_file():
        return None
    changed = difference(load_config(TrainConfig, folder / RESOLVED_FILE), proxy.rung.config, _PLACE)
    if changed is not None:
        raise ValueError(
            f"{folder}: run with {changed[0]}={changed[1]!r}, and the search now has {changed[2]!r}: restore it, or "
            "remove the folder"
        )
    weights = [entry.weight for entry in load_mixture(folder / MIXTURE_FILE).datasets]
    if not np.allclose(weights, proxy.weights, rtol=1e-9, atol=0):
        raise ValueError(f"{folder}: run with other weights than the search now has: restore it, or remove the folder")
    steps = proxy.rung.config.schedule.steps
    lines = [line for line in read_metrics(folder / METRICS_FILE) if line["kind"] == "evaluation"]
    last = [line for line in lines if line["step"] == steps]
    return np.array([float(last[-1][f"loss/{name}"]) for name in judged]) if last else None
