"""megatron-core's tensor-parallel layers, with our initialisation and our record of how each weight is cut."""

from __future__ import annotations

import warnings

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # megatron-core says at import which optional libraries it does without
    from megatron.core.model_parallel_config import ModelParallelConfig
    from megatron.core.tensor_parallel import (
        ColumnParallelLinear,
        RowParallelLinear,
        VocabParallelEmbedding,
        copy_to_tensor_model_parallel_region,
    )

from pretrain.model.partition import Partition, mark_sharded


def _initialised_elsewhere(weight: torch.Tensor) -> None:
    """megatron-core asks for an initialiser; ours runs once over the whole model, see `pretrain/model/init.py`."""


class TensorParallel:
    """Makes the layers of one tensor-parallel group.

    Args:
        group: the process group of the tensor axis.
        dtype: of the weights.
    """

    def __init__(self, group: torch.distributed.ProcessGroup, dtype: torch.dtype) -> None:
        self.group = group
        self.degree = group.size()
        self.rank = group.rank()
        self.dtype = dtype
        # Weights are made on the CPU and moved by DeepSpeed: megatron-core's other way asks for a CUDA device.
        self._config = ModelParallelConfig(
            tensor_model_parallel_size=self.degree,
            params_dtype=dtype,
            use_cpu_initialization=True,
            perform_initialization=False,
        )

    def column(self, input_size: int, output_blocks: tuple[int, ...], bias: bool = False) -> ColumnParallelLinear:
        """A linear layer whose outputs, block by block, are split over the group."""
        Partition(0, output_blocks).check("column-parallel layer", self.degree)
        layer = ColumnParallelLinear(
            input_size,
            sum(output_blocks),
            config=self._config,
            init_method=_initialised_elsewhere,
            bias=bias,
            tp_group=self.group,
        )
        mark_sharded(layer.weight, 0, output_blocks)
        if bias:
            mark_sharded(layer.bias, 0, output_blocks)
        return layer

    def row(self, input_size: int, output_size: int, bias: bool = False) -> RowParallelLinear:
        """A linear layer whose inputs are split over the group; its output is summed over it, then biased."""
        Partition(1, (input_size,)).check("row-parallel layer", self.degree)
        layer = RowParallelLinear(
            input_size,
            output_size,
            config=self._config,
            init_method=_initialised_elsewhere,
            bias=bias,
            input_is_parallel=True,
            skip_bias_add=False,
            tp_group=self.group,
        )
        mark_sharded(layer.weight, 1, (input_size,))
        return layer

    def embedding(self, vocabulary_size: int, hidden_size: int) -> VocabParallelEmbedding:
        """An embedding whose rows are split over the group."""
        Partition(0, (vocabulary_size,)).check("embedding", self.degree)
        layer = VocabParallelEmbedding(
            vocabulary_size,
            hidden_size,
            config=self._config,
            init_method=_initialised_elsewhere,
            tp_group=self.group,
        )
        mark_sharded(layer.weight, 0, (vocabulary_size,))
        return layer

    def multiply(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """A column-parallel product with a weight that another layer owns."""
        return torch.nn.functional.linear(copy_to_tensor_model_parallel_region(x, self.group), weight)
