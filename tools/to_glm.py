"""Export a checkpoint in the format of GLM's authors, in files by tensor rank."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from foundation.atomic_files import whole_folder, write_text
from foundation.progress import Progress
from pretrain.checkpoint.whole import WholeWeights
from pretrain.config import ModelConfig
from pretrain.families.format import Format
from pretrain.families.glm import PARTS
from pretrain.families.mapping import to_hugging_face
from tools.exporting import export_parser, run_export
from tools.glm_parts import MODULE, TRACKERS, check_parts, file_name, partition_of_weight
from tools.hugging_face.files import converted
from tools.hugging_face.to_hf import Checkpoint, check_names

EXAMPLES = """examples:
  altiplano convert to-glm runs/glm-130b/checkpoints glm-130b-sat --parts 8 --dtype float16
  altiplano convert to-glm runs/glm-10b/checkpoints glm-10b
      one file, for the code of THUDM/GLM; with --form sat for SwissArmyTransformer"""


def export_parts(
    checkpoint: Checkpoint, out: Path, *, parts: int, dtype: str, form: Literal["glm", "sat"] | None = None
) -> None:
    """Write one file for each tensor rank, and the files that name their folder; whole or not at all.

    The checkpoint is read once for each file, of which one is in memory at a time.

    Args:
        parts: number of files.
        dtype: data type of the written weights; those of a checkpoint are float32.
        form: THUDM/GLM's or SwissArmyTransformer's; None: the first one, where the model can have it.

    Raises:
        ValueError: the format does not compute one of the model's settings, or the model cannot be divided; a weight is
            missing or unknown, or has values that the dtype cannot have.
        FileExistsError: `out` is there already.
    """
    model = ModelConfig.model_validate(checkpoint.config["model"])
    weights = _format(model, form).places(model)
    check_parts(model, parts, f"--parts {parts}:")
    check_names(set(checkpoint.names()), set(weights))
    # A step of zero is one that neither program reads.
    step = str(checkpoint.step) if checkpoint.step else "release"
    with whole_folder(out) as folder, Progress("export", parts * len(weights), "weights") as progress:
        (folder / step).mkdir()
        for rank in range(parts):
            module: dict[str, torch.Tensor] = {}
            for name, weight in weights.items():
                partition = partition_of_weight(model, name, weight)
                for theirs, whole in to_hugging_face(name, weight, checkpoint.tensor(name)).items():
                    part = whole if partition is None else partition.shard(whole, rank, parts)
                    module[theirs] = converted(theirs, part, dtype).clone()  # not a view, with which all is saved
                progress.advance()
            torch.save({MODULE: module}, folder / step / file_name(rank))
        for tracker in TRACKERS:
            write_text(folder / tracker, step)


def _format(model: ModelConfig, form: Literal["glm", "sat"] | None) -> Format:
    if model.block != "deepnorm":
        return PARTS[form or "glm"]
    if form == "glm":
        raise ValueError("--form glm: has no DeepNorm; GLM-130B's format is SwissArmyTransformer's, sat")
    return PARTS["sat-130b"]


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = export_parser(
        "altiplano convert to-glm",
        "Export a GLM as its authors released theirs: a file for each tensor rank of a run of THUDM/GLM or "
        "SwissArmyTransformer. The tokenizer stays behind; their programs have it from elsewhere.",
        EXAMPLES,
    )
    parser.add_argument("--parts", type=int, default=1, help="number of files, which divide heads, MLP and vocabulary")
    parser.add_argument(
        "--form", choices=["glm", "sat"], help="of GLM 110M to 10B: THUDM/GLM's (default) or SwissArmyTransformer's"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    given = make_parser().parse_args(arguments)

    def export(weights: WholeWeights) -> list[str]:
        export_parts(weights, given.out, parts=given.parts, dtype=given.dtype, form=given.form)
        return [f"exported to {given.out}"]

    return run_export(given, export)


if __name__ == "__main__":
    sys.exit(main())
