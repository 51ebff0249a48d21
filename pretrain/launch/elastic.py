"""The topology for the processes that there are: a cluster does not always come back with as many nodes."""

from __future__ import annotations

from pretrain.config import Degrees, TrainConfig, check_world_size


def fit_processes(config: TrainConfig, world_size: int) -> TrainConfig:
    """The configuration with the first of its preferred degrees that `world_size` processes can have.

    Without preferences it comes back as it is. A checkpoint fits any degrees, so a run goes on under others with the
    same samples in the same steps; only the order of sums differs.

    Raises:
        ValueError: none fits; says why for each.
    """
    if not config.parallel.preferred:
        return config
    reasons = []
    for degrees in config.parallel.preferred:
        try:
            fitted = with_degrees(config, degrees)
            check_world_size(fitted, world_size)
            return fitted
        except ValueError as error:
            reasons.append(f"{degrees}: {_first_line(error)}")
    raise ValueError(
        f"parallel.preferred: none of {len(reasons)} fits {world_size} processes: {'; '.join(reasons)}. Add one that "
        "does, such as one with tensor 1 and pipeline 1, or start another number of processes"
    )


def with_degrees(config: TrainConfig, degrees: Degrees) -> TrainConfig:
    """The configuration under these degrees, with every rule checked.

    Raises:
        ValueError: they do not fit the model or the batch.
    """
    values = config.model_dump(mode="json")
    values["parallel"] = {"tensor": degrees.tensor, "pipeline": degrees.pipeline, "sequence": degrees.sequence}
    if degrees.micro_batch_size is not None:
        values["batch"]["micro_batch_size"] = degrees.micro_batch_size
    return TrainConfig.model_validate(values)


def _first_line(error: ValueError) -> str:
    errors = getattr(error, "errors", None)  # pydantic's, which would also name its own pages
    return str(errors()[0]["msg"]).removeprefix("Value error, ") if callable(errors) else str(error)
