"""Metrics of a run: a JSON line for each step, evaluation and event, and the same scalars for TensorBoard."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from torch.utils.tensorboard.writer import SummaryWriter

from foundation.atomic_files import NoRoomError, room_for, write_text
from pretrain.monitor.weights_and_biases import WeightsAndBiases

Kind = Literal["train", "evaluation", "tasks", "event"]

CLOCKED = frozenset(
    {
        "tokens_per_second",
        "tokens_per_second_per_device",
        "model_flops_per_second_per_device",
        "hardware_flops_per_second_per_device",
        "mfu",
        "hfu",
        "peak_flops_per_device",
        "step_seconds",
        "seconds",
        "goodput",
        "time",
    }
)
"""Fields of a line that depend on time, and so differ between two runs with the same results."""

METRICS_FILE = "metrics.jsonl"
ABANDONED_FILE = "metrics.abandoned.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class MetricsWriter:
    """Appends lines to `path`. Each is a JSON object with `kind` and `step`, and is in the file when `write` returns.

    A run that resumes from a checkpoint repeats the steps after it. Their old lines are moved to
    `metrics.abandoned.jsonl` beside the file, so that `path` has every step once.

    Args:
        path: the `metrics.jsonl`, created if missing.
        resume_step: finished steps of the checkpoint that the run resumes from; 0 for a new run, which abandons all
            lines.
        also: receives the scalars too.

    Attributes:
        no_room: reason why the latest line could not be written; None while there is room on the disk. It is not
            raised, so that the steps since the last checkpoint are not lost: the caller checks it and stops in order.
    """

    def __init__(self, path: Path, resume_step: int, also: WeightsAndBiases | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            _abandon(path, resume_step)
        self._path = path
        self._also = also
        self.no_room: str | None = None
        self._open(resume_step)

    def _open(self, resume_step: int) -> None:
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - open during the run
        # TensorBoard hides what was written earlier for steps from this one on.
        self._board = SummaryWriter(str(self._path.parent / TENSORBOARD_FOLDER), purge_step=resume_step + 1)

    def roll_back(self, to_step: int, branch: str) -> None:
        """Move the lines of steps after `to_step`, which are repeated, to `metrics.abandoned.jsonl`.

        There they have `"branch": branch`, and TensorBoard shows them as a run of that name beside the kept one.
        """
        self._close_files()
        abandoned = _abandon(self._path, to_step, branch)
        board = SummaryWriter(str(self._path.parent / TENSORBOARD_FOLDER / branch))
        for line in abandoned:
            for name, value in line.items():
                if line["kind"] != "event" and name not in ("kind", "step") and isinstance(value, int | float):
                    board.add_scalar(f"{line['kind']}/{name}", value, line["step"])
        board.close()
        self._open(to_step)

    def write(self, kind: Kind, *, step: int, **values: Any) -> None:
        """Append a line. NaN and infinity, which JSON lacks, are written as the strings "nan" and "inf"."""
        line = {"kind": kind, "step": step, **{name: _finite(value) for name, value in values.items()}}
        with self._noting_no_room():
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()
            for name, value in values.items():
                if kind != "event" and isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)
        if self._also is not None and kind != "event":
            self._also.write(kind, step, {n: v for n, v in values.items() if isinstance(v, int | float)})

    def close(self) -> None:
        self._close_files()
        if self._also is not None:
            self._also.close()

    def _close_files(self) -> None:
        with self._noting_no_room():
            self._file.close()
        with self._noting_no_room():
            self._board.close()

    @contextlib.contextmanager
    def _noting_no_room(self) -> Iterator[None]:
        try:
            with room_for(self._path):
                yield
        except NoRoomError as error:
            self.no_room = str(error)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All lines of a metrics file, without an incomplete last line of a killed process.

    Raises:
        ValueError: another line is damaged; names it.
    """
    lines: list[dict[str, Any]] = []
    raw = path.read_bytes().split(b"\n")
    for number, text in enumerate(raw, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            if not isinstance(line, Mapping) or not {"kind", "step"} <= line.keys():
                raise ValueError("not an object with `kind` and `step`")
        except ValueError as error:
            if number == len(raw):  # what follows the last newline
                break
            raise ValueError(f"{path}:{number}: damaged line: {error}") from None
        lines.append(dict(line))
    return lines


def _abandon(path: Path, resume_step: int, branch: str | None = None) -> list[dict[str, Any]]:
    lines = read_metrics(path)
    kept = [line for line in lines if resume_step and line["step"] <= resume_step]
    abandoned = [line for line in lines if not (resume_step and line["step"] <= resume_step)]
    if branch is not None:
        abandoned = [{**line, "branch": branch} for line in abandoned]
    # First added there, then removed here: after a kill in between, lines are in both files, never in none.
    if abandoned:
        aside = path.with_name(ABANDONED_FILE)
        before = aside.read_text(encoding="utf-8") if aside.is_file() else ""
        write_text(aside, before + _as_text(abandoned))
    # Also without abandoned lines, to remove an incomplete last one.
    write_text(path, _as_text(kept))
    return abandoned


def _as_text(lines: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
