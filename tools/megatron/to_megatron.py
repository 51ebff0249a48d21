"""Export a checkpoint as a distributed checkpoint of Megatron-LM."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from foundation.atomic_files import whole_folder, write_json
from foundation.progress import Progress
from foundation.version import program
from pretrain.checkpoint.read import BY_TOKEN
from pretrain.checkpoint.whole import WholeWeights
from pretrain.config import ModelConfig
from tools.exporting import export_parser, run_export
from tools.hugging_face.files import converted
from tools.hugging_face.to_hf import ORIGIN_FILE, Checkpoint, check_names
from tools.megatron.arguments import arguments_of, check_expressible, options_beside
from tools.megatron.distributed import RELEASE, Written, write_distributed, write_tracker
from tools.megatron.weights import Place, by_group, extra_states, is_grouped, places

EXAMPLES = """examples:
  altiplano convert to-megatron runs/mine/checkpoints mine-megatron --dtype bfloat16
      then give Megatron-LM: --load mine-megatron --use-checkpoint-args and what is printed
  altiplano convert to-megatron runs/mine/checkpoints/step-00001000 mine-megatron
      a certain checkpoint, in float32"""


def export_distributed(checkpoint: Checkpoint, out: Path, *, dtype: str) -> None:
    """Write a folder with a `release`, from which Megatron-LM starts a run at its step 0; whole or not at all.

    One weight of the checkpoint is in memory at a time, and one of each kind in the written dtype.

    Args:
        dtype: data type of the written weights; those of a checkpoint are float32.

    Raises:
        ValueError: Megatron-LM does not compute one of the model's settings; a weight is missing or unknown, or has
            values that the dtype cannot have.
        FileExistsError: `out` is there already.
    """
    model = ModelConfig.model_validate(checkpoint.config["model"])
    check_expressible(model)
    found = places(model)
    check_names(set(checkpoint.names()), set(found))
    common = {"args": arguments_of(model), "checkpoint_version": 3.0, "iteration": 0}
    with whole_folder(out) as folder, Progress("export", len(found), "weights") as progress:
        parts = [_written(checkpoint, model, name, place, dtype, progress.advance) for name, place in found.items()]
        write_distributed(folder / RELEASE, parts, extra_states(model.layers), common, getattr(torch, dtype))
        origin = {"program": program(), "step": checkpoint.step, "family": model.family}
        write_json(folder / RELEASE / ORIGIN_FILE, {**origin, "vocabulary_size": model.vocabulary_size})
        write_tracker(folder)


def _written(
    checkpoint: Checkpoint, model: ModelConfig, name: str, place: Place, dtype: str, done: Callable[[], None]
) -> Written:
    shape, padding = place.shape, 0
    if name in BY_TOKEN:
        padding = model.padded_vocabulary_size() - shape[0]
        shape = (shape[0] + padding, *shape[1:])

    def read() -> torch.Tensor:
        tensor = checkpoint.tensor(name)
        if is_grouped(name):
            tensor = by_group(model, tensor)
        done()
        return converted(name, torch.nn.functional.pad(tensor, (0, 0, 0, padding)) if padding else tensor, dtype)

    key, layer = place.candidates()[0]
    return Written(key, shape, read, layer, model.layers)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    return export_parser(
        "altiplano convert to-megatron",
        "Export a checkpoint as Megatron-LM saves one (torch_dist), for any of its parallel degrees. The tokenizer and "
        "the optimizer's state stay behind.",
        EXAMPLES,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    given = make_parser().parse_args(arguments)

    def export(weights: WholeWeights) -> list[str]:
        export_distributed(weights, given.out, dtype=given.dtype)
        return [
            f"exported to {given.out}: give Megatron-LM --load {given.out} --use-checkpoint-args",
            "and, because it does not take them from a checkpoint: " + " ".join(options_beside(weights.model)),
        ]

    return run_export(given, export)


if __name__ == "__main__":
    sys.exit(main())
