"""What the exports to other programs' formats share: the command line and the call."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pretrain.checkpoint.whole import WholeWeights, verified_weights
from tools.hugging_face.files import SAFETENSORS_NAMES


def export_parser(
    program: str, description: str, examples: str, *, dtype: str = "of the weights"
) -> argparse.ArgumentParser:
    """The command line of an export.

    Args:
        dtype: help of `--dtype`.
    """
    parser = argparse.ArgumentParser(
        prog=program, description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="a step-… folder, or a run's checkpoints folder for the newest")
    parser.add_argument("out", type=Path, help="folder to write; must not exist")
    parser.add_argument("--dtype", choices=sorted(SAFETENSORS_NAMES), default="float32", help=dtype)
    parser.add_argument(
        "--base", type=Path, help="checkpoint with the frozen weights; default: where it was in training"
    )
    return parser


def run_export(given: argparse.Namespace, export: Callable[[WholeWeights], Sequence[str]]) -> int:
    """Run an export and return the exit code.

    Args:
        given: the command line, of `export_parser`.
        export: writes the weights of the checkpoint; returns what the person at the terminal should know.
    """
    try:
        notes = export(verified_weights(given.checkpoint, given.base))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    for note in notes:
        print(note)
    return 0
