"""Import a checkpoint of GLM's authors, in files by tensor rank, as a checkpoint to start from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pretrain.config import ModelConfig
from tools.glm_parts import Importer, PartFiles
from tools.importing import differing_copies, import_parser, import_weights, run_import

EXAMPLES = """examples:
  altiplano convert from-glm glm-130b-sat imported --model configs/model/glm-130b.yaml
  altiplano convert from-glm blocklm-10b-1024 imported --model configs/model/glm-10b.yaml --tokenizer glm-10b
      then train with initial_weights=imported"""


def import_parts(folder: Path, out: Path, model: ModelConfig | None, tokenizer: Path | None) -> list[str]:
    """Write a checkpoint from part files; whole or not at all, one weight in memory at a time.

    Returns:
        What the person at the terminal should know.

    Raises:
        ValueError: the files are not those of a model of these settings, see `PartFiles` and `Importer`.
        FileExistsError: `out` is there already.
    """
    assert model is not None, "the command line requires it"
    importer = Importer(PartFiles(folder), model)
    import_weights(importer, model, folder, out, tokenizer, "glm")
    return differing_copies(importer.differing)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    return import_parser(
        "altiplano convert from-glm",
        "Import a checkpoint of THUDM/GLM or SwissArmyTransformer, such as GLM-10B and GLM-130B, of any "
        "number of files, as a checkpoint that a run can start from. The optimizer's state is not read.",
        EXAMPLES,
        folder="with mp_rank_NN_model_states.pt, or with `latest` and such a folder",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return run_import(make_parser().parse_args(arguments), import_parts)


if __name__ == "__main__":
    sys.exit(main())
