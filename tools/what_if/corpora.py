"""The corpora that two rule sets make of the same measured documents.

Nothing is extracted or measured again: a corpus begins with links to the shards and signals of the run that is given.
Both use its tokenizer, so that losses per token can be compared, and both are judged by the same text: of the documents
that are held out, those that both rule sets keep. Which documents are held out does not depend on the rules.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from data_prep.__main__ import main as prepare
from data_prep.config import DataConfig
from data_prep.rules.compare import names_of
from data_prep.run.directory import RunDirectory
from data_prep.stages import STAGES, from_stage_on
from foundation.atomic_files import whole_folder
from foundation.configuration import ConfigError, load_config, write_resolved, write_yaml
from pretrain.config import TrainConfig
from pretrain.data.mixture import MixtureFile, load_mixture
from tools.ladder.rungs import Rung, rungs_of
from tools.ladder.settings import LadderConfig
from tools.mixture.proxies import write_mixture
from tools.what_if.settings import WhatIfConfig

SIDES = ("A", "B")
BOTH = "both"
"""Folder of the documents that both rule sets keep, whose held-out part judges either."""
MIXTURE_FILE, TRAIN_FILE = "mixture.yaml", "train.yaml"


@dataclass(frozen=True)
class Corpus:
    """What one rule set keeps, and its ladder.

    Attributes:
        side: A or B.
        rules: the rule set as it was given.
        ladder: the ladder on this corpus.
    """

    side: str
    rules: str
    mixture: MixtureFile
    ladder: LadderConfig
    rungs: tuple[Rung, ...]

    @property
    def tokens(self) -> int:
        """Tokens to train on."""
        return sum(entry.tokens for entry in self.mixture.datasets)


def make_corpora(settings: WhatIfConfig) -> None:
    """Decide, tokenize and write the ladder of either rule set; what is made already stays.

    Raises:
        ValueError: the given run of data preparation is not finished, or a rule set keeps too little.
    """
    base = load_config(DataConfig, settings.data)
    tokenizer = base.tokenizer.path or RunDirectory(base.output).tokenizer
    for name, rules in zip((*SIDES, BOTH), (*settings.rule_sets, "+".join(settings.rule_sets)), strict=True):
        folder = settings.output / name
        values = base.model_dump(mode="json", exclude_unset=True)
        values |= {"output": str(folder / "data"), "tokenizer": {"path": str(tokenizer)}}
        for given, source in zip(values["sources"], base.sources, strict=True):
            given["rules"] = names_of(rules, source.rules)
        _link_measured(RunDirectory(base.output), folder / "data")
        write_yaml(folder / "data.yaml", values)
        if prepare(["run", "--config", str(folder / "data.yaml")]):
            raise ValueError(f"{folder / 'data.yaml'}: data preparation with the rules {rules} did not finish")
    held_out = load_mixture(_made_mixture(settings, BOTH))
    for side in SIDES:
        made = load_mixture(_made_mixture(settings, side))
        weights = [entry.weight for entry in made.datasets]
        write_mixture(made, weights, settings.output / side / MIXTURE_FILE, held_out)  # type: ignore[arg-type]
        _write_target(settings, side)


def corpora(settings: WhatIfConfig) -> tuple[Corpus, Corpus]:
    """Both corpora.

    Raises:
        ValueError: they are not made, or a ladder does not fit its corpus.
    """
    first, second = (_corpus(settings, side, rules) for side, rules in zip(SIDES, settings.rule_sets, strict=True))
    return first, second


def _corpus(settings: WhatIfConfig, side: str, rules: str) -> Corpus:
    path = settings.output / side / MIXTURE_FILE
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `altiplano data what-if plan` makes both corpora")
    shared = load_config(LadderConfig, settings.ladder)
    folder = settings.output / side
    ladder = shared.model_copy(update={"output": folder / "ladder", "train": folder / TRAIN_FILE})
    return Corpus(side, rules, load_mixture(path), ladder, tuple(rungs_of(ladder)))


def _write_target(settings: WhatIfConfig, side: str) -> None:
    """The configuration of the run whose loss is predicted, on this corpus."""
    folder = settings.output / side
    target = load_config(TrainConfig, load_config(LadderConfig, settings.ladder).train)
    values = target.model_dump(mode="json")
    values["output"] = str(folder / "target")
    values["data"]["mixture"] = str(folder / MIXTURE_FILE)
    write_resolved(TrainConfig.model_validate(values), folder / TRAIN_FILE)


def _made_mixture(settings: WhatIfConfig, name: str) -> Path:
    return settings.output / name / "data" / "tokens" / "mixture.yaml"


def _link_measured(base: RunDirectory, output: Path) -> None:
    """A run's folder with the documents and signals of another, as links where the file system allows.

    Raises:
        ConfigError: the other run is not finished.
    """
    if not base.tokens.is_dir():
        raise ConfigError(f"{base.root}: not finished; run `altiplano data run` with its configuration first")
    if output.is_dir():
        return
    later = from_stage_on("dedup")
    kept = [stage for stage in STAGES if stage not in later]
    with whole_folder(output) as folder:
        shutil.copy2(base.manifest, folder / base.manifest.name)
        (folder / base.commits.name).mkdir()
        if base.manifest_stamps.is_file():
            shutil.copy2(base.manifest_stamps, folder / base.commits.name)
        for path in (path for stage in kept for path in (*base.outputs_of(stage), base.commits / stage)):
            if path.is_dir():
                shutil.copytree(path, folder / path.relative_to(base.root), copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
