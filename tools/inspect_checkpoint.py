"""Show the contents of a checkpoint: `altiplano checkpoint inspect runs/demo/train/checkpoints`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from foundation.progress import Progress, summary_table
from foundation.version import described
from pretrain.checkpoint.layout import CheckpointError
from pretrain.checkpoint.read import CheckpointReader, verified_checkpoint
from pretrain.checkpoint.whole import BASE, open_base
from pretrain.config import ModelConfig
from pretrain.families.mapping import parameter_count
from pretrain.topology import Topology


def inspect(path: Path, *, quick: bool, weights: bool, base: Path | None = None) -> None:
    """Print step, topology, configuration and files; with `weights` the size and spread of each.

    Raises:
        CheckpointError: it is not whole, or, unless `quick`, a file's checksum is not the one it was written with.
    """
    reader = CheckpointReader(path) if quick else verified_checkpoint(path)
    index = reader.index
    files = index["files"]
    count = sum(math.prod(reader.shape(name)) for name in reader.names())
    skipped = reader.skipped_samples
    spikes = index.get("spikes") or {"suspect": False, "ledger": []}
    healthy = "suspect: no rollback goes here" if spikes["suspect"] else "healthy"
    summary_table(
        str(reader.path),
        [
            ("steps done", reader.step),
            ("updates applied", reader.updates),
            ("samples consumed", reader.consumed_samples),
            ("samples skipped", ", ".join(f"[{start:,}, {stop:,})" for start, stop in skipped) or "none"),
            ("loss spikes", f"{len(spikes['ledger'])} in the ledger; {healthy}"),
            ("written by", written_by(reader)),
            ("weights", f"{count:,} in {len(reader.names()):,} parameters"),
            *frozen_rows(reader, count, base),
            ("files", f"{len(files):,}, {sum(entry['bytes'] for entry in files.values()) / 1e6:,.1f} MB"),
            ("checksums", "not compared: --quick" if quick else "all as written"),
            ("data digest", reader.data_digest[:16]),
            *((library, version) for library, version in index["versions"].items()),
            ("altiplano", described(index.get("program"))),
        ],
    )
    if weights:
        rows = []
        with Progress("read", len(reader.names()), "parameters") as progress:
            for name in reader.names():
                weight = reader.tensor(name)
                has_second = "exp_avg_sq" in reader.states(name)  # Muon's matrices have none
                rows.append(
                    (
                        name,
                        " × ".join(map(str, weight.shape)),
                        f"{weight.std(correction=0).item():.3e}",
                        f"{weight.abs().max().item():.3e}",
                        f"{reader.tensor(name, 'exp_avg_sq').mean().sqrt().item():.3e}" if has_second else "",
                    )
                )
                progress.advance()
        summary_table("fp32 weights", rows, ("name", "shape", "std", "largest", "gradient rms"))
    print("configuration of the run:")
    print(json.dumps(reader.config, indent=2))


def frozen_rows(reader: CheckpointReader, count: int, moved: Path | None) -> list[tuple[str, str]]:
    """What is known of the frozen weights and of the checkpoint that has them; nothing if all were trained.

    Args:
        count: number of the trained weights.
        moved: place of the base, where that has moved.
    """
    entry = reader.index.get(BASE)
    if entry is None:
        return []
    adapter = reader.config.get("adapter")
    total = parameter_count(ModelConfig.model_validate(reader.config["model"]))
    try:
        found = open_base(reader, moved)
        state = f"found at {found.path}" if found else ""
    except CheckpointError as error:
        state = str(error)
    rows = [
        ("frozen weights", f"those of {entry['checkpoint']}, digest {entry['digest'][:16]}"),
        ("the base", state),
        ("trained share", f"{count / total:.2%} of {total:,}"),
    ]
    return rows if adapter is None else [*rows, ("adapters", f"rank {adapter['rank']}, alpha {adapter['alpha']:g}")]


def written_by(reader: CheckpointReader) -> str:
    """Degrees of the mesh; of a checkpoint that `altiplano checkpoint reshape` has cut, both sides of it."""
    before = reader.index.get("reshaped_from")
    if before is None:
        return str(reader.topology)
    return f"{Topology(**before['topology'])}; cut for tensor {reader.tensor_degree} since"


EXAMPLES = """examples:
  altiplano checkpoint inspect runs/demo/train/checkpoints
      the newest checkpoint, every file compared with its checksum
  altiplano checkpoint inspect runs/demo/train/checkpoints/step-00000080 --quick --weights
      a certain one: spread and largest value of each parameter"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano checkpoint inspect",
        description="Show the contents of a checkpoint, after comparing every checksum.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="a step-… folder, or a run's checkpoints folder for the newest")
    parser.add_argument(
        "--base", type=Path, help="checkpoint with the frozen weights; default: where it was in training"
    )
    parser.add_argument("--quick", action="store_true", help="do not read every file to compare its checksum")
    parser.add_argument(
        "--weights",
        action="store_true",
        help="for each parameter: shape, spread, largest value, root of AdamW's mean of squared gradients",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = make_parser().parse_args(arguments)
    try:
        inspect(given.checkpoint, quick=given.quick, weights=given.weights, base=given.base)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
