"""The mesh of ranks: rank <-> (pipe, data, tensor)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Coordinate:
    """Position of a rank on each axis of the mesh."""

    pipe: int
    data: int
    tensor: int


@dataclass(frozen=True)
class Topology:
    """Degrees of the mesh. The tensor axis is innermost, so that its ranks share a node's fast links; then data; the
    pipeline, which communicates least, is outermost (Narayanan et al. 2021, arXiv:2104.04473, section 3)."""

    pipe: int
    data: int
    tensor: int

    def __post_init__(self) -> None:
        for axis in ("pipe", "data", "tensor"):
            if getattr(self, axis) < 1:
                raise ValueError(f"parallel degree {axis}={getattr(self, axis)} must be at least 1")

    @property
    def world_size(self) -> int:
        return self.pipe * self.data * self.tensor

    def coordinate(self, rank: int) -> Coordinate:
        """Coordinate of a rank. Raises ValueError when the rank is outside the mesh."""
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank {rank} is outside a mesh of {self.world_size} processes")
        rest, tensor = divmod(rank, self.tensor)
        pipe, data = divmod(rest, self.data)
        return Coordinate(pipe, data, tensor)

    def rank(self, coordinate: Coordinate) -> int:
        """Rank at a coordinate; the inverse of `coordinate`."""
        return (coordinate.pipe * self.data + coordinate.data) * self.tensor + coordinate.tensor

    def __str__(self) -> str:
        return f"tensor {self.tensor} × pipeline {self.pipe} × data {self.data}"
