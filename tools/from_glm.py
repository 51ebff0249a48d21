"""Import a checkpoint of GLM's authors, in files by tensor rank, as a checkpoint to start from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from foundation.configuration import ConfigError
from pretrain.config import ModelConfig
from tools.glm_parts import Importer, PartFiles
from tools.model_file import load_model_settings
from tools.starting_checkpoint import write_starting_checkpoint

EXAMPLES = """examples:
  altiplano convert from-glm glm-130b-sat imported --model configs/model/glm-130b.yaml
  altiplano convert from-glm blocklm-10b-1024 imported --model configs/model/glm-10b.yaml --tokenizer glm-10b
      then train with initial_weights=imported"""

IMPORTED_RUN = "glm"
"""In place of a digest of data: none of ours has been seen."""


def import_parts(folder: Path, out: Path, model: ModelConfig, tokenizer: Path | None) -> Importer:
    """Write a checkpoint from part files; whole or not at all, one weight in memory at a time.

    Raises:
        ValueError: the files are not those of a model of these settings, see `PartFiles` and `Importer`.
        FileExistsError: `out` is there already.
    """
    importer = Importer(PartFiles(folder), model)
    write_starting_checkpoint(
        out,
        model,
        importer,
        data_digest=IMPORTED_RUN,
        origin={"from": str(folder), "special_tokens": {}, "generation_config": {}},
        tokenizer=tokenizer,
        title="import",
    )
    return importer


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano convert from-glm",
        description="Import a checkpoint of THUDM/GLM or SwissArmyTransformer, such as GLM-10B and GLM-130B, of any "
        "number of files, as a checkpoint that a run can start from. The optimizer's state is not read.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="with mp_rank_NN_model_states.pt, or with `latest` and such a folder")
    parser.add_argument("out", type=Path, help="folder to write; must not exist")
    parser.add_argument("--model", type=Path, required=True, help="file with the model's settings")
    parser.add_argument("--tokenizer", type=Path, help="folder of the model's tokenizer, which is copied")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    given = make_parser().parse_args(arguments)
    try:
        importer = import_parts(given.folder, given.out, load_model_settings(given.model), given.tokenizer)
    except (ConfigError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if importer.differing:
        name, worst = max(importer.differing.items(), key=lambda item: item[1])
        print(
            f"warning: the files' copies of {len(importer.differing)} weights differ, those of {name} by up to "
            f"{worst:.1e}; their mean was taken"
        )
    print(f"imported to {given.out}: start a run from it with initial_weights={given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
