"""How well models read texts longer than those they were trained on: `altiplano extrapolation CHECKPOINT …`.

Held-out documents are read in windows of several lengths, in two ways. Windows that do not overlap begin without
context, so that longer ones gain because fewer tokens are early in a window. Sliding windows move on by `--stride`
tokens and count only those, so that nearly all of a window is context whatever its length (Press et al. 2021,
arXiv:2108.12409, section 5 and appendix B: most of the gain of the first way is this "early token curse"). Every way
and length counts the same tokens.

Rotary positions are read as trained, and beyond the training's length also with their frequencies scaled by the ratio
of the lengths: linearly (Chen et al. 2023, arXiv:2306.15595) and by a larger base (NTK, Peng et al. 2023,
arXiv:2309.00071). ALiBi needs no scaling. Several checkpoints are compared on the same tokens.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from foundation.atomic_files import restrict_file_modes, write_json, write_text
from foundation.progress import Progress, summary_table
from pretrain.checkpoint.single import single_process_model
from pretrain.checkpoint.whole import WholeWeights, verified_weights
from pretrain.config import ModelConfig
from pretrain.data.mixture import MixtureFile, load_mixture
from tools.extrapolation_page import charts, extrapolation_page

RESULT_FILE, PAGE_FILE = "extrapolation.json", "extrapolation.html"
TOKENS_AT_ONCE = 8192
STRIDES = 4
"""Strides of the training's length, where `--stride` is left out."""

EXAMPLES = """examples:
  altiplano extrapolation runs/demo/train/checkpoints
  altiplano extrapolation runs/alibi/checkpoints runs/rotary/checkpoints --lengths 1,1.5,2,4
      both on the same tokens; the first one's mixture unless --mixture names another
  altiplano extrapolation runs/demo/train/checkpoints --lengths 1,2,8 --stride 1 --tokens 20000"""


@dataclass(frozen=True)
class Reading:
    """What a model makes of windows of one length.

    Attributes:
        model: the checkpoint's run.
        positions: `rotary`, `rotary, linear`, `rotary, ntk`, `alibi` or `learned`.
        length: tokens of a window.
        ratio: of the length to the training's.
        loss: mean over windows that do not overlap, in nats.
        sliding_loss: mean over sliding windows, in nats.
        by_position: mean at each place of a window that does not overlap, [length].
    """

    model: str
    positions: str
    length: int
    ratio: float
    loss: float
    sliding_loss: float
    by_position: tuple[float, ...]


def long_texts(mixture: MixtureFile, size: int, count: int) -> list[npt.NDArray[np.int64]]:
    """Stretches of `size` tokens of held-out documents, each within one, as many as there are up to `count`.

    Raises:
        ValueError: no held-out document is long enough.
    """
    found: list[npt.NDArray[np.int64]] = []
    longest = 0
    for entry in mixture.datasets:
        dataset = mixture.open(entry, "heldout")
        for i in range(0 if dataset is None else len(dataset)):
            assert dataset is not None
            tokens = np.asarray(dataset.document(i), np.int64)
            longest = max(longest, len(tokens))
            for start in range(0, len(tokens) - size + 1, size):
                found.append(tokens[start : start + size])
                if len(found) == count:
                    return found
    if not found:
        raise ValueError(
            f"{mixture.path}: the longest held-out document has {longest:,} tokens, and a text for these lengths needs "
            f"{size:,}: fewer or shorter --lengths, or hold out longer documents"
        )
    return found


Logits = Callable[[torch.Tensor], torch.Tensor]


def losses_of(model: Logits, windows: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each token after the first, in nats.

    Args:
        windows: tokens, int64 [W, length + 1].

    Returns:
        fp32 [W, length].
    """
    at_once = max(1, TOKENS_AT_ONCE // windows.shape[1])
    parts = []
    for some in windows.split(at_once):
        scores = model(some[:, :-1])
        parts.append(torch.nn.functional.cross_entropy(scores.transpose(1, 2), some[:, 1:], reduction="none"))
    return torch.cat(parts)


def read(model: Logits, texts: torch.Tensor, lead: int, length: int, stride: int) -> tuple[torch.Tensor, float]:
    """Losses of both ways of reading.

    Args:
        texts: tokens, [T, lead + counted + 1]; the first `lead` targets are context of sliding windows only.
        length: divides the number of counted targets.
        stride: divides `length`.

    Returns:
        Mean loss at each place of a window that does not overlap, [length], and mean loss over sliding windows.
    """
    apart = texts[:, lead:].unfold(1, length + 1, length).flatten(0, 1)
    by_position = losses_of(model, apart).double().mean(0)
    sliding = texts[:, lead - length + stride :].unfold(1, length + 1, stride).flatten(0, 1)
    total, count = 0.0, 0
    for some in sliding.split(max(1, TOKENS_AT_ONCE // length)):
        counted = losses_of(model, some)[:, -stride:]
        total, count = total + float(counted.double().sum()), count + counted.numel()
    return by_position, total / count


def variants(model: ModelConfig, length: int, ratio: float) -> Iterator[tuple[str, ModelConfig]]:
    """Names and models of the ways in which positions beyond the training's can be read.

    Raises:
        ValueError: the positions are learnt, and there are none for this length.
    """
    longer = {"maximum_positions": max(length, model.maximum_positions)}
    if not model.is_rotary:
        if model.positions != "alibi" and length > model.maximum_positions:
            raise ValueError(
                f"--lengths: the model has learnt {model.maximum_positions:,} positions and no others; {length:,} "
                "tokens cannot be read"
            )
        yield model.positions, model.model_copy(update=longer if model.positions == "alibi" else {})
        return
    yield "rotary", model.model_copy(update=longer)
    if ratio > 1 and model.rope_scaling is None:
        for kind in ("linear", "ntk"):
            scaling = {"kind": kind, "factor": ratio}
            yield (
                f"rotary, {kind}",
                ModelConfig.model_validate({**model.model_dump(), **longer, "rope_scaling": scaling}),
            )


@dataclass(frozen=True)
class Plan:
    """Windows that every model reads.

    Attributes:
        trained: sequence length of the training, in tokens.
        lengths: of the windows, in tokens.
        counted: targets of a text that count, a multiple of every length.
    """

    trained: int
    lengths: tuple[int, ...]
    stride: int

    @property
    def lead(self) -> int:
        return max(self.lengths)

    @property
    def counted(self) -> int:
        return math.lcm(*self.lengths)


def plan(trained: int, ratios: Sequence[float], stride: int | None) -> Plan:
    """Lengths for these ratios to the training's length.

    Raises:
        ValueError: a ratio makes no whole number of tokens, or the stride does not divide the lengths.
    """
    lengths = []
    for ratio in ratios:
        length = round(ratio * trained)
        if length < 2 or abs(length - ratio * trained) > 1e-6:
            raise ValueError(f"--lengths: {ratio:g} times {trained} tokens is no whole number of at least 2")
        lengths.append(length)
    if len(set(lengths)) < len(lengths):
        raise ValueError(f"--lengths: {', '.join(f'{ratio:g}' for ratio in ratios)} has a length twice")
    common = math.gcd(*lengths)
    chosen = stride or math.gcd(common, max(1, trained // STRIDES))
    if common % chosen:
        raise ValueError(f"--stride: {chosen} must divide every length: {', '.join(map(str, lengths))}")
    return Plan(trained, tuple(lengths), chosen)


def trained_length(weights: WholeWeights) -> int:
    """Tokens of a sample of the training; of an imported model, its maximum number of positions."""
    data = weights.config.get("data")
    return weights.model.maximum_positions if data is None else int(data["sequence_length"])


def readings(name: str, weights: WholeWeights, texts: torch.Tensor, planned: Plan) -> Iterator[Reading]:
    """Read the texts in every length and way.

    Raises:
        ValueError: see `variants`.
    """
    for length in planned.lengths:
        ratio = length / planned.trained
        for positions, config in variants(weights.model, length, ratio):
            model = single_process_model(weights, config)
            by_position, sliding = read(model, texts, planned.lead, length, planned.stride)
            yield Reading(
                name, positions, length, ratio, float(by_position.mean()), sliding, tuple(by_position.tolist())
            )


def compare(
    checkpoints: Sequence[Path], mixture: Path | None, ratios: Sequence[float], stride: int | None, tokens: int
) -> tuple[Plan, int, list[Reading]]:
    """Read the same held-out texts with the models of several checkpoints.

    Returns:
        The windows, the number of tokens that count, and what came of it.

    Raises:
        ValueError: a checkpoint is damaged, or the models cannot be compared, or there are no texts for these lengths.
    """
    opened = [verified_weights(path) for path in checkpoints]
    first = opened[0]
    trained = trained_length(first)
    for other in opened[1:]:
        length = trained_length(other)
        if length != trained:
            raise ValueError(
                f"{other.path}: trained on samples of {length} tokens, and {first.path} on {trained}: compare models "
                "of the same length"
            )
        if other.model.vocabulary_size != first.model.vocabulary_size:
            raise ValueError(f"{other.path}: its vocabulary is not that of {first.path}: losses cannot be compared")
    for one in opened:
        kind = one.config.get("objective", {}).get("kind", "causal")
        if kind != "causal":
            raise ValueError(f"{one.path}: objective.kind is {kind}; only a causal model reads plain text")
    planned = plan(trained, ratios, stride)
    if mixture is None and "data" not in first.config:
        raise ValueError(f"{first.path}: an imported model has no data of its own; give --mixture")
    files = load_mixture(mixture or Path(first.config["data"]["mixture"]))
    if files.vocabulary_size != first.model.vocabulary_size:
        raise ValueError(
            f"{files.path}: has {files.vocabulary_size} tokens, and {first.path} {first.model.vocabulary_size}: "
            "another tokenizer"
        )
    size = planned.lead + planned.counted + 1
    found = long_texts(files, size, max(1, tokens // planned.counted))
    texts = torch.from_numpy(np.stack(found))
    names = _names(checkpoints)
    results: list[Reading] = []
    with Progress("extrapolation", None, "readings") as progress:
        for name, weights in zip(names, opened, strict=True):
            for reading in readings(name, weights, texts, planned):
                results.append(reading)
                progress.advance()
    return planned, len(texts) * planned.counted, results


def _names(paths: Sequence[Path]) -> list[str]:
    """Shortest ends of the paths by which they differ."""
    parts = [[part for part in path.resolve().parts if part != "checkpoints"] for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano extrapolation",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoints", type=Path, nargs="+", help="checkpoints, or folders of them (the newest counts)")
    parser.add_argument(
        "--lengths", default="1,1.5,2,4", help="lengths of the windows relative to the training's (1,1.5,2,4)"
    )
    parser.add_argument("--mixture", type=Path, help="mixture.yaml with held-out documents; default: that of the run")
    parser.add_argument("--tokens", type=int, default=100_000, help="held-out tokens that count, at most (100000)")
    parser.add_argument("--stride", type=int, help="tokens by which sliding windows move; default: about a quarter")
    parser.add_argument("--out", type=Path, help="folder for the page and the numbers; default: that of the first run")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    command = make_parser()
    given = command.parse_args(arguments)
    for name in ("tokens", "stride"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            command.error(f"--{name} {getattr(given, name)}: must be at least 1")
    try:
        ratios = [float(text) for text in given.lengths.split(",")]
    except ValueError:
        command.error(f"--lengths {given.lengths}: expected numbers separated by commas, such as 1,1.5,2,4")
    restrict_file_modes()
    try:
        planned, tokens, results = compare(given.checkpoints, given.mixture, ratios, given.stride, given.tokens)
        first = given.checkpoints[0]
        out = given.out or (first.parent if (first / "latest").is_file() else first.parent.parent)
        write_json(
            out / RESULT_FILE, {**asdict(planned), "tokens": tokens, "readings": [asdict(one) for one in results]}
        )
        drawn = charts(planned.trained, results)
        write_text(out / PAGE_FILE, extrapolation_page(planned.stride, tokens, results, drawn))
        for name, chart in drawn.items():
            write_text(out / f"extrapolation_{name}.svg", chart)
    except (ValueError, OSError) as error:
        print(f"extrapolation: {error}", file=sys.stderr)
        return 2
    summary_table(
        f"{tokens:,} held-out tokens, trained on {planned.trained}, stride {planned.stride}; nats per token",
        [(one.model, one.positions, one.length, f"{one.ratio:g}", one.loss, one.sliding_loss) for one in results],
        ("model", "positions", "window", "of the training's", "apart", "sliding"),
    )
    print(f"page: {out / PAGE_FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
