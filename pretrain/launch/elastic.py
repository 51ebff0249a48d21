"""Parallel degrees that fit the number of processes: a cluster does not always come back with as many nodes."""

from __future__ import annotations

from pretrain.config import Degrees, TrainConfig, check_world_size


def fit_processes(config: TrainConfig, world_size: int) -> TrainConfig:
    """The configuration with the first of its preferred degrees that fit `world_size` processes.

    Without preferred degrees it is returned unchanged. A checkpoint fits any degrees, so that a run continues under
    other ones with the same samples in the same steps; only the order of sums differs.

    Raises:
        ValueError: none fits; gives the reason for each.
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
        "fits, such as tensor 1 and pipeline 1, or start another number of processes"
    )


def with_degrees(config: TrainConfig, degrees: Degrees) -> TrainConfig:
    """The configuration with these degrees, fully validated.

    Raises:
        ValueError: the degrees do not fit the model or the batch.
    """
    values = config.model_dump(mode="json")
    values["parallel"] = degrees.model_dump(exclude={"micro_batch_size"})
    if degrees.micro_batch_size is not None:
        values["batch"]["micro_batch_size"] = degrees.micro_batch_size
    return TrainConfig.model_validate(values)


def _first_line(error: ValueError) -> str:
    errors = getattr(error, "errors", None)  # pydantic's errors, whose text would also link to its documentation
    return str(errors()[0]["msg"]).removeprefix("Value error, ") if callable(errors) else str(error)
