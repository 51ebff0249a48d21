"""Add entries to a vocabulary, and to a model that was trained with it.

    altiplano tokens extend OLD_TOKENIZER OTHER_TOKENIZER NEW_TOKENIZER      those of another SentencePiece vocabulary
    altiplano tokens control OLD_TOKENIZER NEW_TOKENIZER "<|im_start|>" …    control tokens, for any tokenizer
    altiplano checkpoint extend CHECKPOINT OLD_TOKENIZER NEW_TOKENIZER OUT

The first two write a tokenizer in which every old entry keeps its id; control tokens take the places of reserved
entries first, for which a model has rows already. The third writes a checkpoint to begin a run from
(`initial_weights=OUT`): a row of embedding and head that is new is the mean of the rows of the old tokens that its text
was made of; of a control token, the mean of all rows, as for Stanford Alpaca.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from data_prep.tokenizer.control_tokens import add_control_tokens
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.extend import extend_tokenizer, sources_of_added
from foundation.progress import summary_table
from pretrain.checkpoint.read import BY_TOKEN
from pretrain.checkpoint.whole import verified_weights
from pretrain.config import ModelConfig
from tools.hugging_face.files import SPECIAL_TOKENS
from tools.starting_checkpoint import write_starting_checkpoint

EXTENDED_RUN = "extended vocabulary"
"""In place of a digest of data: none was seen with the new vocabulary."""


def extend_checkpoint(checkpoint: Path, old: Path, new: Path, out: Path) -> tuple[ModelConfig, int]:
    """Write the weights of a checkpoint with rows for a larger vocabulary; whole or not at all.

    Args:
        old, new: folders of the tokenizer that the model was trained with, and of the extended one.

    Returns:
        The model's settings, and how many rows are new.

    Raises:
        ValueError: a vocabulary that is not the model's, or that does not begin with it; a damaged checkpoint.
        FileExistsError: `out` is there already.
    """
    reader = verified_weights(checkpoint)
    before = reader.model
    sources = sources_of_added(old, new)
    size = ReferenceEncoder(old).vocabulary_size
    if before.vocabulary_size != size:
        raise ValueError(f"{old}: {size} entries, but the model of {reader.path} has {before.vocabulary_size}")
    after = ModelConfig.model_validate({**before.model_dump(), "vocabulary_size": size + len(sources)})

    def read(name: str) -> torch.Tensor:
        weight = reader.tensor(name)
        return with_new_rows(weight, sources) if name in BY_TOKEN else weight

    ends = dict.fromkeys(SPECIAL_TOKENS, ReferenceEncoder(new).end_of_document)
    write_starting_checkpoint(
        out,
        after,
        read,
        data_digest=EXTENDED_RUN,
        origin={"from": str(reader.path), "special_tokens": ends, "generation_config": ends},
        tokenizer=new,
        title="extend",
    )
    return after, len(sources)


def with_new_rows(weight: torch.Tensor, sources: Sequence[Sequence[int]]) -> torch.Tensor:
    """Rows of the tokens: those of `weight`, and the mean of some of them for each of `sources`."""
    return torch.cat([weight, *(weight[list(tokens)].mean(0, keepdim=True) for tokens in sources)])


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano tokens extend",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    tokenizer = commands.add_parser("tokenizer", prog="altiplano tokens extend")
    control = commands.add_parser("control", prog="altiplano tokens control")
    checkpoint = commands.add_parser("checkpoint", prog="altiplano checkpoint extend")
    for command in (tokenizer, control, checkpoint):
        command.description, command.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    checkpoint.add_argument("checkpoint", type=Path, help="a step-… folder, or a run's checkpoints folder")
    for command in (tokenizer, control, checkpoint):
        command.add_argument("old", type=Path, help="folder of the old tokenizer")
    tokenizer.add_argument("other", type=Path, help="folder of the tokenizer whose entries are added")
    tokenizer.add_argument("out", type=Path, help="folder to write the extended tokenizer to")
    control.add_argument("out", type=Path, help="folder to write the new tokenizer to")
    control.add_argument("names", nargs="+", metavar="TOKEN", help="name of a control token")
    checkpoint.add_argument("new", type=Path, help="folder of the extended tokenizer")
    checkpoint.add_argument("out", type=Path, help="folder to write the checkpoint to")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 when something does not fit."""
    given = make_parser().parse_args(arguments)
    try:
        if given.command == "tokenizer":
            extension = extend_tokenizer(given.old, given.other, given.out)
            summary_table(
                str(given.out),
                [
                    ("entries before", extension.old_size),
                    ("added", len(extension.added)),
                    ("in both", extension.shared),
                    ("entries now", extension.old_size + len(extension.added)),
                    ("added, but never by their own text", len(extension.unreachable)),
                ],
            )
            print(f"next: altiplano checkpoint extend CHECKPOINT {given.old} {given.out} OUT")
        elif given.command == "control":
            control = add_control_tokens(given.old, given.names, given.out)
            summary_table(str(given.out), [*control.ids.items(), ("entries now", control.size)])
            if control.appended:
                print(f"next: altiplano checkpoint extend CHECKPOINT {given.old} {given.out} OUT")
            else:
                print("next: tokenizer.path names the new folder; the model has a row for each of them")
        else:
            model, rows = extend_checkpoint(given.checkpoint, given.old, given.new, given.out)
            print(f"{given.out}: {rows:,} rows are new; train on with initial_weights={given.out}")
            print(f"model.vocabulary_size={model.vocabulary_size}, and token files of the tokenizer in {given.new}")
    except (ValueError, OSError) as error:
        print(f"extend_vocabulary: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
