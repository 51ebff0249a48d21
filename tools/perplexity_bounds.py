"""Print the bounds of CCNet's buckets of perplexity for a corpus that is measured.

    altiplano data perplexity-bounds --config configs/data/mine.yaml --write bounds.yaml

The head of a language are the 30 % of its documents with the lowest perplexity, the middle those up to 60 %, as in
cc_net/perplexity.py (PerplexityBucket); the paper has three even parts (Wenzek et al. 2020, arXiv:1911.00359,
"LM filtering"), which `--head 33.3 --middle 66.7` gives. Write the lines into the configuration, or name the file that
`--write` makes in its `base:`, and the rule sets `ccnet_head` and `ccnet_middle` use them; nothing is measured again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.config import DataConfig
from data_prep.languages import meant_for
from data_prep.rules.decide import read_signals
from data_prep.run.directory import RunDirectory
from data_prep.run.manifest import load_manifest
from foundation.atomic_files import write_text
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
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the lines, for `base:`")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="settings that win over the file's")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the bounds as lines of the configuration; the exit code is 2 when nothing is measured."""
    given = make_parser().parse_args(arguments)
    try:
        if not 0 < given.head < given.middle < 100:
            raise ValueError(f"--head {given.head:g} and --middle {given.middle:g} must rise between 0 and 100")
        config = load_config(DataConfig, given.config, given.overrides)
        lines = settings_of(perplexities(config), given.head, given.middle)
        if given.write is not None:
            write_text(given.write, lines)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(lines, end="")
    if given.write is not None:
        print(f"written to {given.write}: name it in `base:` of the configuration")
    return 0


def settings_of(found: Mapping[str, npt.NDArray[np.float32]], head: float, middle: float) -> str:
    """Return the bounds of each language as lines of a configuration; languages without bounds are comments.

    Args:
        found: perplexities by language.
        head, middle: percent of a language's documents up to the bounds.
    """
    lines = ["perplexity:"]
    for language, values in found.items():
        if not len(values):
            lines.append(f"  # {language}: no document has a perplexity")
            continue
        first, second = (f"{bound:.1f}" for bound in np.percentile(values, [head, middle]).tolist())
        if first == second:
            lines.append(f"  # {language}: {len(values):,} documents, too few for different bounds")
            continue
        few = ", few: the bounds mean little" if len(values) < _FEW else ""
        lines += [f"  {language}:  # {len(values):,} documents{few}", f"    head: {first}", f"    middle: {second}"]
    return "\n".join(lines) + "\n"


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
    found = {language: np.concatenate([np.empty(0, np.float32), *own]) for language, own in parts.items()}
    if not any(map(len, found.values())):
        raise ValueError(
            f"{run.signals}: no document has a perplexity; name models in `perplexity` and run `--restart measure`"
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
