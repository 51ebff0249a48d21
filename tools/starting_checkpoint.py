"""A checkpoint to begin a run from: weights of step 0, as a rule without an optimizer's memory; of a whole model, or of
what was trained beside the frozen weights of another checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foundation.atomic_files import whole_folder
from foundation.progress import Progress
from pretrain.checkpoint.layout import (
    FORMAT_VERSION,
    STATES,
    StoredFragment,
    partition_to_json,
    rank_file,
    write_index,
)
from pretrain.checkpoint.read import BY_TOKEN, CheckpointReader
from pretrain.checkpoint.whole import BASE, base_entry
from pretrain.config import ModelConfig
from pretrain.device import group_alone
from pretrain.model.linear import TensorParallel
from pretrain.model.partition import partition_of
from pretrain.model.pipeline import WholeModel
from pretrain.tuning import AdapterConfig, trained_shapes
from tools.hugging_face.files import Exported, Parts, copy_tokenizer, in_parts, is_finite, write_safetensors


@dataclass(frozen=True)
class Beside:
    """What is written of a model beside the frozen weights of `base`: adapters, and weights by name."""

    base: CheckpointReader
    adapter: AdapterConfig
    trainable: tuple[str, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a run that trains these weights."""
        return {"adapter": self.adapter.model_dump(mode="json"), "trainable": list(self.trainable)}


@dataclass(frozen=True)
class Moments:
    """AdamW's memory of the run that weights come from.

    Attributes:
        read: gives a moment of a weight by the weight's name and the moment's, `exp_avg` or `exp_avg_sq`; whole,
            without padding rows, fp32.
        updates: number of updates that they remember.
    """

    read: Callable[[str, str], Parts]
    updates: int


def write_starting_checkpoint(
    out: Path,
    model: ModelConfig,
    read: Callable[[str], Parts],
    *,
    data_digest: str,
    origin: dict[str, Any],
    tokenizer: Path | None,
    title: str,
    beside: Beside | None = None,
    moments: Moments | None = None,
    verified_meanwhile: AbstractContextManager[None] | None = None,
) -> None:
    """Write a checkpoint whole or not at all, one weight in memory at a time.

    Args:
        read: gives each weight by its name, whole, without padding rows, fp32.
        data_digest: in place of one of data; no data of ours has been seen.
        origin: written into the index as `imported`.
        tokenizer: folder with the tokenizer's files.
        title: of the progress.
        beside: the base, where only a part of the weights is written; None: the whole model.
        moments: what a run that starts from it goes on with; None: none.
        verified_meanwhile: context that raises, at its end at the latest, where what is read is damaged, see
            `foundation.checksums`; None: nothing has checksums, or they were compared.

    Raises:
        ValueError: a weight has values that are not finite.
        FileExistsError: `out` is there already.
    """
    parameters = _parameters(model, beside)
    fragments = [StoredFragment(name, 0, 0, math.prod(entry["shape"])) for name, entry in parameters.items()]
    stored = [(fragment, state) for fragment in fragments for state in (STATES if moments else STATES[:1])]
    planned = [Exported(fragment.key(state), (fragment.stop,), 4 * fragment.stop) for fragment, state in stored]
    progress = Progress(title, len(stored), "tensors")
    with whole_folder(out) as unfinished, verified_meanwhile or nullcontext(), progress:

        def value(name: str, state: str) -> Parts:
            return read(name) if moments is None or state == STATES[0] else moments.read(name, state)

        def tensors() -> Iterator[tuple[str, Iterator[torch.Tensor]]]:
            for part, (fragment, state) in zip(planned, stored, strict=True):
                yield part.name, _finite(fragment, value(fragment.name, state))
                progress.advance()

        path = unfinished / rank_file(0)
        digest = write_safetensors(path, planned, tensors(), "float32")
        if tokenizer is not None:
            copy_tokenizer(tokenizer, unfinished / "tokenizer")
        index = {
            "format": FORMAT_VERSION,
            "step": 0,
            "consumed_samples": 0,
            "topology": {"tensor": 1, "pipe": 1, "data": 1},
            "config": {"model": model.model_dump(mode="json"), **(beside.settings if beside else {})},
            "data_digest": data_digest,
            "versions": {"torch": torch.__version__},
            "imported": origin,
            **({BASE: base_entry(beside.base)} if beside else {}),
            **({"updates": moments.updates} if moments else {}),
            "parameters": parameters,
            "files": {
                rank_file(0): {
                    "bytes": path.stat().st_size,
                    "sha256": digest,
                    "fragments": [[f.name, f.tensor_rank, f.start, f.stop] for f in fragments],
                }
            },
        }
        write_index(unfinished, index)


def _finite(fragment: StoredFragment, weight: Parts) -> Iterator[torch.Tensor]:
    """Parts of a weight, and zeros for padding rows."""
    count = 0
    for part in in_parts(weight):
        if not is_finite(part):
            raise ValueError(
                f"{fragment.name}: some of its values are not finite (NaN or infinity), which a run cannot start from: "
                "the model is damaged, or was saved in a precision that cannot hold it"
            )
        count += len(part)
        yield part
    if fragment.name in BY_TOKEN:
        yield torch.zeros(fragment.stop - count)


def _parameters(model: ModelConfig, beside: Beside | None) -> dict[str, Any]:
    """Shape and partition of every weight, asked of the model itself; on torch's meta device it takes no memory."""
    adapter = beside.adapter if beside else None
    trained = trained_shapes(model, beside.trainable if beside else None, adapter)
    group = group_alone()
    with torch.device("meta"):
        whole = WholeModel(model, TensorParallel(group, torch.float32), adapter)
    return {
        name: {"shape": list(parameter.shape), "partition": partition_to_json(partition_of(parameter))}
        for name, parameter in whole.named_global_parameters()
        if name in trained
    }
