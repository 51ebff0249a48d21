"""Compare an exported model with its checkpoint: `altiplano convert verify CHECKPOINT HF_FOLDER`.

transformers loads the export and computes the logits of held-out text; our own model computes them from the checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from foundation.atomic_files import write_json
from foundation.progress import Progress
from pretrain.data.loader import SampleReader
from pretrain.data.mixture import load_mixture
from tools.hugging_face.writing import generate, held_out_prompts

RESULT_FILE = "exported_check.json"

RELATIVE_BOUNDS = {"float32": 1e-4, "float16": 2.0**-8, "bfloat16": 2.0**-5}
"""Largest allowed difference of two logits, relative to the largest logit, by the dtype of the exported weights.
Both sides compute in float32. For float32 weights only the order of the sums differs; bfloat16 has rounded each weight
by up to 2^-9, float16 by up to 2^-12, and the errors of the layers add up."""

IMPORTED_WINDOW = 1024
"""Tokens of a sequence where the checkpoint names none: models are made for up to 131,072, whose logits would take
gigabytes for each sequence."""

PROMPTS = 5
"""Held-out documents whose first words the model continues."""


@dataclass(frozen=True)
class Comparison:
    """Difference between the logits of two models.

    Attributes:
        max_abs_difference: over all logits.
        largest_logit: of our model, in absolute value.
        tokens_compared: positions; each has a logit for every entry of the vocabulary.
        greedy_agreement: share of the positions where both would choose the same next token.
    """

    max_abs_difference: float
    largest_logit: float
    tokens_compared: int
    greedy_agreement: float


Logits = Callable[[torch.Tensor], torch.Tensor]
"""tokens [B, S], int64 -> logits [B, S, V], float32"""


def compare_logits(ours: Logits, theirs: Logits, batches: Sequence[torch.Tensor]) -> Comparison:
    """Compare over batches of tokens [B, S].

    Raises:
        ValueError: the logits have different shapes, or are not finite.
    """
    difference = largest = 0.0
    tokens = agreed = 0
    with Progress("compare logits", sum(batch.numel() for batch in batches), "tokens") as progress:
        for batch in batches:
            a, b = ours(batch), theirs(batch)
            if a.shape != b.shape:
                raise ValueError(
                    f"logits have shape {tuple(a.shape)} in the checkpoint, {tuple(b.shape)} in the export"
                )
            if not (a.isfinite().all() and b.isfinite().all()):
                raise ValueError("logits are not finite; the weights of the checkpoint are damaged")
            difference = max(difference, float((a - b).abs().max()))
            largest = max(largest, float(a.abs().max()))
            agreed += int((a.argmax(-1) == b.argmax(-1)).sum())
            tokens += batch.numel()
            progress.advance(batch.numel())
    return Comparison(difference, largest, tokens, agreed / tokens)


def verify(
    checkpoint: Path, folder: Path, *, mixture: Path | None, samples: int, prompts: Sequence[str], base: Path | None
) -> bool:
    """Compare, generate, print, and write `exported_check.json` beside `folder`; False when the bound is exceeded.

    Raises:
        ValueError: the checkpoint, the export or the mixture cannot be used.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    from pretrain.checkpoint.read import CheckpointReader
    from pretrain.checkpoint.single import load_single_process_model

    transformers_logging.disable_progress_bar()
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder / 'config.json'}: no such file; `altiplano convert to-hf` writes the folder")
    reader = CheckpointReader(checkpoint)
    # An imported checkpoint has seen no data of ours.
    window = min(IMPORTED_WINDOW, reader.config["model"]["maximum_positions"])
    data = reader.config.get("data", {"sequence_length": window})
    seed = reader.config.get("seed", 0)
    if mixture is None and "mixture" not in data:
        raise ValueError(f"{reader.path}: an imported model; name held-out text to compare on with --mixture")
    files = load_mixture(mixture or Path(data["mixture"]))
    held_out = SampleReader(files, data["sequence_length"], seed, "heldout")
    assert held_out.sample_count is not None
    count = min(samples, held_out.sample_count)
    chosen = [i * held_out.sample_count // count for i in range(count)]
    # One at a time: the logits of one sequence of a large vocabulary fill memory enough.
    batches = [torch.from_numpy(held_out.samples([i])[:, :-1].copy()) for i in chosen]

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    dtype = str(model.dtype).removeprefix("torch.")
    model = model.float().eval()

    @torch.no_grad()
    def theirs(tokens_BS: torch.Tensor) -> torch.Tensor:
        return model(tokens_BS, use_cache=False).logits

    comparison = compare_logits(load_single_process_model(checkpoint, base), theirs, batches)
    bound = RELATIVE_BOUNDS[dtype] * comparison.largest_logit
    within = comparison.max_abs_difference <= bound
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = generate(folder, model, tokenizer, prompts or held_out_prompts(files, tokenizer, PROMPTS), seed)
    write_json(
        folder.parent / RESULT_FILE,
        {
            "checkpoint": reader.path.name,
            "step": reader.step,
            "dtype": dtype,
            **asdict(comparison),
            "bound": bound,
            "within_bound": within,
            "samples": texts,
        },
    )
    print(
        f"logits of {comparison.tokens_compared:,} held-out tokens: largest difference "
        f"{comparison.max_abs_difference:.2e} (bound {bound:.2e}), same next token for "
        f"{comparison.greedy_agreement:.2%}"
    )
    for text in texts:
        print(f"--- {text['prompt']!r}\n{text['prompt']}{text['continuation']}")
    return within


EXAMPLES = """examples:
  altiplano convert verify runs/demo/train/checkpoints runs/demo/hf
  altiplano convert verify imported hf --mixture runs/demo/tokens/mixture.yaml
      an imported model has seen no data of ours: name held-out text
  altiplano convert verify runs/demo/train/checkpoints runs/demo/hf --prompts "def " "The "
"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano convert verify",
        description="Compare the logits of an exported model with those of its checkpoint, and let it write.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="a step-… folder, or a run's checkpoints folder for the newest")
    parser.add_argument("folder", type=Path, help="what `altiplano convert to-hf` wrote")
    parser.add_argument("--mixture", type=Path, help="mixture.yaml with the held-out text; default: the run's own")
    parser.add_argument("--samples", type=int, default=8, help="held-out sequences to compare (default 8)")
    parser.add_argument(
        "--base", type=Path, help="checkpoint with the frozen weights; default: where it was in training"
    )
    parser.add_argument("--prompts", nargs="+", default=[], help="texts to continue; default: held-out documents")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 equal, 1 the logits differ, 2 it could not be compared."""
    command = make_parser()
    given = command.parse_args(arguments)
    if given.samples < 1:
        command.error(f"--samples {given.samples}: must be at least 1")
    try:
        within = verify(
            given.checkpoint,
            given.folder,
            mixture=given.mixture,
            samples=given.samples,
            prompts=given.prompts,
            base=given.base,
        )
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if not within:
        print(f"{given.folder}: the exported model does not compute what the checkpoint does", file=sys.stderr)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
