"""Settings of a comparison of two rule sets by the loss they lead to, `what_if.yaml` of `configs/ladder`."""

from __future__ import annotations

from pathlib import Path

from pydantic import model_validator

from foundation.configuration import Settings


class WhatIfConfig(Settings):
    """Two rule sets, the documents that they choose from, and the ladder that both are climbed with."""

    output: Path
    """Folder of both corpora and their runs."""
    data: Path
    """Configuration of the run of data preparation whose documents are measured already."""
    rule_sets: tuple[str, str]
    """Two rule sets, as `altiplano data decide --what-if` takes them: names joined by `+`, of which `configured` stands
    for those that each source has."""
    ladder: Path
    """A ladder: its rungs are trained on either corpus, and the loss of the run that it names is predicted for both."""

    @model_validator(mode="after")
    def _they_differ(self) -> WhatIfConfig:
        if self.rule_sets[0] == self.rule_sets[1]:
            raise ValueError(f"rule_sets: {self.rule_sets[0]} twice: there is nothing to compare")
        return self
