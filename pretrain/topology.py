"""The mesh of ranks: rank <-> (pipe, data, context, tensor)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Coordinate:
    """Position of a rank on each axis of the mesh."""

    pipe: int
    data: int
    tensor: int
    context: int = 0


@dataclass(frozen=True)
class Topology:
    """Degrees of the mesh. The tensor axis is innermost, so that its ranks share a node's fast links; then context,
    which communicates in every layer too; then data; the pipeline, which communicates least, is outermost (Narayanan et
    al. 2021, arXiv:2104.04473, section 3; Llama 3, arXiv:2407.21783, section 3.3.2, has the same order but for the last
    two)."""

    pipe: int
    data: int
    tensor: int
    context: int = 1

    def __post_init__(self) -> None:
        for axis in ("pipe", "data", "tensor", "context"):
            if getattr(self, axis) < 1:
                raise ValueError(f"parallel degree {axis}={getattr(self, axis)} must be at least 1")

    @property
    def replicas(self) -> int:
        """Ranks with the same weights: those of the data and context axes, over which ZeRO-1 divides the optimizer."""
        return self.data * self.context

    @property
    def world_size(self) -> int:
        return self.pipe * self.replicas * self.tensor

    def coordinate(self, rank: int) -> Coordinate:
        """Coordinate of a rank. Raises ValueError when the rank is outside the mesh."""
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank {rank} is outside a mesh of {self.world_size} processes")
        rest, tensor = divmod(rank, self.tensor)
        rest, context = divmod(rest, self.context)
        pipe, data = divmod(rest, self.data)
        return Coordinate(pipe, data, tensor, context)

    def rank(self, coordinate: Coordinate) -> int:
        """Rank at a coordinate; the inverse of `coordinate`."""
        replica = (coordinate.pipe * self.data + coordinate.data) * self.context + coordinate.context
        return replica * self.tensor + coordinate.tensor

    def __str__(self) -> str:
        context = f" × context {self.context}" if self.context > 1 else ""
        return f"tensor {self.tensor}{context} × pipeline {self.pipe} × data {self.data}"
