"""Our list of layers as DeepSpeed's pipeline, divided into stages by FLOPs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from pretrain.engine.library import LayerSpec, PipelineModule, TiedLayerSpec, partition_balanced
from pretrain.model.pipeline import PipelineLayer


class Pipeline(PipelineModule):
    """DeepSpeed's pipeline, with layers assigned to stages by FLOPs instead of parameters."""

    def __init__(self, planned: Sequence[PipelineLayer], **settings: Any) -> None:
        self.planned = list(planned)
        super().__init__([_specification(layer) for layer in planned], partition_method="parameters", **settings)

    def _count_layer_params(self) -> list[int]:
        return [layer.flops for layer in self.planned]

    def get_tied_weights_and_groups(self) -> list[tuple[torch.nn.Parameter, Any]]:
        """Tied weights whose gradients are summed over the stages. DeepSpeed 0.19.8 would sum those of frozen ones,
        which have none."""
        return [(weight, group) for weight, group in super().get_tied_weights_and_groups() if weight.requires_grad]

    def named_global_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """(global name, parameter) of this stage's layers, in order; tied ones on each stage that uses them."""
        for index, layer in enumerate(self.forward_funcs, start=self._local_start):
            built = layer.args[0] if isinstance(layer, partial) else layer
            for name, parameter in built.inner.named_parameters():
                yield self.planned[index].prefix + name, parameter


def stage_bounds(flops: Sequence[int], stages: int) -> list[int]:
    """Bounds of the stages that DeepSpeed makes of layers with these costs: stage i has layers [result[i], result[i +
    1])."""
    return [int(bound) for bound in partition_balanced(list(flops), stages)]


def _specification(layer: PipelineLayer) -> LayerSpec:
    if layer.tied is None:
        return LayerSpec(_Built, layer)
    names = [f"inner.{name}" for name in layer.tied_weights]
    return TiedLayerSpec(
        layer.tied, _Built, layer, forward_fn=lambda built, x: layer.run(built.inner, x), tied_weight_attr=names
    )


class _Built(torch.nn.Module):
    """A module that DeepSpeed's LayerSpec can build: a class with arguments."""

    def __init__(self, layer: PipelineLayer) -> None:
        super().__init__()
        self.layer = layer
        self.inner = layer.build()

    def forward(self, x: Any) -> Any:
        return self.layer.run(self.inner, x)
