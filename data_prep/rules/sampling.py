"""Rules that keep a share of the documents, by their scores: a score as a weight.

A document is drawn by a keyed hash of its text, so that copies share their lot, and the same documents are kept
whatever the order and the workers. Shares follow points on a line, or GPT-3's rule (Brown et al. 2020,
arXiv:2005.14165, appendix A): a document stays if a Pareto variable of shape α is more than 1 - score, which has the
probability (2 - score)^-α.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xxhash

from data_prep.rules.rule import Rule
from data_prep.signals.scores import PREFIX

if TYPE_CHECKING:
    from data_prep.config import DataConfig

QUALITY = "quality"
"""Name of the probability of the quality classifier as a score."""
_HASH = "exact_hash"


@dataclass(frozen=True)
class Draw(Rule):
    """A document passes with a probability that depends on its score.

    Attributes:
        points: pairs of a score and a share, scores ascending; between them, shares follow a line.
        pareto: α of GPT-3's rule, in place of points.
    """

    points: tuple[tuple[float, float], ...] = ()
    pareto: float | None = None
    seed: int = 0

    @property
    def signals(self) -> tuple[str, ...]:
        return (self.signal, _HASH)

    def shares(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the probability of passing for each score; NaN: for none."""
        if self.pareto is not None:
            return np.asarray((2.0 - np.clip(scores, 0.0, 1.0)) ** -self.pareto)
        places, shares = zip(*self.points, strict=True)
        return np.asarray(np.interp(scores, places, shares))

    def fails(self, signals: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
        shares = self.shares(np.asarray(signals[self.signal], np.float64))
        lots = [xxhash.xxh3_64_intdigest(text, self.seed) / 2**64 for text in signals[_HASH].tolist()]
        return np.where(np.isnan(shares), not self.missing_passes, np.array(lots, np.float64) >= shares)

    def describe(self, language: str | None = None) -> str:
        if self.pareto is not None:
            return f"{self.signal} drawn with probability (2 - score)^-{self.pareto:g}, seed {self.seed}"
        listed = ", ".join(f"{share:g} at {score:g}" for score, share in self.points)
        return f"{self.signal} drawn with probability {listed}, seed {self.seed}"


def rules_of(config: DataConfig) -> tuple[Rule, ...]:
    """Return a rule for each setting.

    Raises:
        ValueError: there is none, or one names a score that is not there.
    """
    if not config.sampling:
        raise ValueError("rule set `sampled` needs shares: name scores in sampling")
    rules = []
    for name, setting in config.sampling.items():
        if setting.score == QUALITY:
            if config.quality.model is None:
                raise ValueError(f"sampling.{name}.score: {QUALITY!r} needs a classifier, and quality.model names none")
            signal, missing_passes = "quality_probability", False
        elif setting.score in config.scores:
            signal, missing_passes = PREFIX + setting.score, config.scores[setting.score].without == "keep"
        else:
            known = ", ".join([QUALITY, *config.scores])
            raise ValueError(f"sampling.{name}.score: no score is called {setting.score!r}; there are {known}")
        source = f"sampling.{name}"
        if setting.pareto is not None:
            source += "; Brown et al. 2020 (GPT-3), arXiv:2005.14165, appendix A"
        rules.append(
            Draw(
                f"sampled.{name}",
                signal,
                "at least",
                0.0,
                source,
                missing_passes=missing_passes,
                points=setting.shares,
                pareto=setting.pareto,
                seed=config.seed & 0xFFFFFFFFFFFFFFFF,
            )
        )
    return tuple(rules)
