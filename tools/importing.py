"""What the imports of other programs' checkpoints share: the command line, the call and the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from foundation.configuration import ConfigError
from pretrain.config import ModelConfig
from tools.model_file import load_model_settings
from tools.starting_checkpoint import Moments, write_starting_checkpoint


def import_weights(
    read: Callable[[str], torch.Tensor],
    model: ModelConfig,
    folder: Path,
    out: Path,
    tokenizer: Path | None,
    program: str,
    moments: Moments | None = None,
) -> None:
    """Write a checkpoint from other files; whole or not at all, one weight in memory at a time.

    Args:
        read: gives each weight by our name, whole, fp32.
        folder: where the files are, for the record.
        tokenizer: folder of the model's tokenizer, which is copied.
        program: what wrote the files, in place of a digest of data: none of ours has been seen.
        moments: of the run that wrote them, where they are imported too.

    Raises:
        ValueError: a weight does not fit, or has values that are not finite.
        FileExistsError: `out` is there already.
    """
    write_starting_checkpoint(
        out,
        model,
        read,
        data_digest=program,
        origin={"from": str(folder), "special_tokens": {}, "generation_config": {}},
        tokenizer=tokenizer,
        title="import",
        moments=moments,
    )


def import_parser(
    program: str, description: str, examples: str, *, folder: str, model: str | None = None
) -> argparse.ArgumentParser:
    """The command line of an import.

    Args:
        folder: help of the files' place.
        model: help of `--model` where files may contain the settings; None: they never do.
    """
    parser = argparse.ArgumentParser(
        prog=program, description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help=folder)
    parser.add_argument("out", type=Path, help="folder to write; must not exist")
    parser.add_argument("--model", type=Path, required=model is None, help=model or "file with the model's settings")
    parser.add_argument("--tokenizer", type=Path, help="folder of the model's tokenizer, which is copied")
    return parser


def run_import(
    given: argparse.Namespace,
    imported: Callable[[Path, Path, ModelConfig | None, Path | None], Sequence[str]],
) -> int:
    """Run an import and return the exit code.

    Args:
        given: the command line, of `import_parser`.
        imported: imports the files of a folder as a checkpoint, given the settings of `--model` and the tokenizer;
            returns what the person at the terminal should know.
    """
    try:
        model = None if given.model is None else load_model_settings(given.model)
        notes = imported(given.folder, given.out, model, given.tokenizer)
    except (ConfigError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    for note in notes:
        print(note)
    print(f"imported to {given.out}: start a run from it with initial_weights={given.out}")
    return 0


def differing_copies(differing: Mapping[str, float]) -> list[str]:
    """What to tell about copies of weights that should be equal.

    Args:
        differing: largest difference between the files' copies of a weight, by our name, where they differ.
    """
    if not differing:
        return []
    name, worst = max(differing.items(), key=lambda item: item[1])
    return [
        f"warning: the files' copies of {len(differing)} weights differ, those of {name} by up to {worst:.1e}; their "
        "mean was taken"
    ]


def newest_step(folder: Path, trackers: Sequence[str], name_of: Callable[[str], str] = str) -> Path:
    """The folder of the newest step, where a file in `folder` names it; otherwise `folder` itself.

    Args:
        trackers: names of such files.
        name_of: gives the name of a step's folder from what such a file contains.

    Raises:
        ValueError: the folder that is named is missing.
    """
    for tracker in trackers:
        if (folder / tracker).is_file():
            step = name_of((folder / tracker).read_text(encoding="utf-8").strip())
            if not step or Path(step).name != step or not (folder / step).is_dir():
                raise ValueError(f"{folder / tracker}: {step!r}: no such folder beside it")
            return folder / step
    return folder
