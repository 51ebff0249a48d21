"""Print the bounds of CCNet's buckets of perplexity for a corpus that is measured.

    altiplano data perplexity-bounds --config configs/data/mine.yaml

The head of a language are the 30 % of its documents with the lowest perplexity, the middle those up to 60 %, as in
cc_net/perplexity.py (PerplexityBucket); the paper has three even parts (Wenzek et al. 2020, arXiv:1911.00359,
"LM filtering"), which `--head 33.3 --middle 66.7` gives. Write the numbers into the configuration, and the rule sets
`ccnet_head` and `ccnet_middle` ask for them; nothing is measured again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.config import DataConfig
from data_prep.languages import meant_for
from data_prep.rules.decide import read_signals
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import load_manifest
from foundation.configuration import load_config
from foundation.progress import Progress

_FEW = 1000
"""Number of documents below which the bounds mean little."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano data perplexity-bounds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="of the run of data_prep")
    parser.add_argument("--head", type=float, default=30, help="percent of a language's documents; 30")
    parser.add_argument("--middle", type=float, default=60, help="percent, of head and middle together; 60")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="settings that win over the file's")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the bounds as lines of the configuration; the exit code is 2 when nothing is measured."""
    given = make_parser().parse_args(arguments)
    try:
        if not 0 < given.head < given.middle < 100:
            raise ValueError(f"--head {given.head:g} and --middle {given.middle:g} must rise between 0 and 100")
        found = perplexities(load_config(DataConfig, given.config, given.overrides))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("perplexity:")
    for language, values in found.items():
        head, middle = np.percentile(values, [given.head, given.middle]).tolist()
        few = ", few: the bounds mean little" if len(values) < _FEW else ""
        print(f"  {language}:  # {len(values):,} documents{few}\n    head: {head:.1f}\n    middle: {middle:.1f}")
    return 0


def perplexities(config: DataConfig) -> dict[str, npt.NDArray[np.float32]]:
    """Perplexities of the documents of each language that has a model, in the order of the configuration.

    Raises:
        ValueError: no document has a perplexity.
    """
    run = RunDirectory(config.output)
    shards = load_manifest(run).shards
    parts: dict[str, list[npt.NDArray[np.float32]]] = {language: [] for language in config.perplexity}
    with Progress("read signals", len(shards), "shards") as progress:
        for shard in shards:
            signals = read_signals(run.signals / f"{shard.name}.parquet", (), ("perplexity",))
            values = signals["perplexity"].astype(np.float32)
            for name in np.unique(signals["language"]).tolist():
                language = meant_for(name, config.perplexity)
                if language is not None:
                    parts[language].append(values[(signals["language"] == name) & np.isfinite(values)])
            progress.advance()
    found = {language: np.concatenate(own) for language, own in parts.items() if sum(map(len, own))}
    if not found:
        raise ValueError(
            f"{run.signals}: no document has a perplexity; name models in `perplexity` and run `--restart measure`"
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
