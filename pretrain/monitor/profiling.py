"""A profile of some steps: a trace that https://ui.perfetto.dev opens, and a summary for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from foundation.atomic_files import whole_file, write_text
from pretrain.config import ProfileConfig
from pretrain.engine.engine import Engine
from pretrain.monitor.run_log import RunLog

FOLDER = "profile"
LONGEST_SHOWN = 25
_INSTRUCTIONS = {
    "LoadMicroBatch": "load a micro-batch",
    "ForwardPass": "forward pass",
    "BackwardPass": "backward pass",
    "SendActivation": "send activations",
    "RecvActivation": "receive activations",
    "SendGrad": "send gradients",
    "RecvGrad": "receive gradients",
    "ReduceTiedGrads": "sum partial and tied gradients",
    "ReduceGrads": "sum gradients of replicas",
    "OptimizerStep": "update",
}
"""Names in trace and summary of the instructions of DeepSpeed's pipeline schedule."""
_KINDS = (
    ("communication", ("nccl", "gloo", "c10d", "record_param_comms", "all_gather", "all_reduce", "reduce_scatter")),
    ("attention", ("flash", "fmha", "flex_attention", "efficient_attention", "BlockAttention")),
    ("matrix products", ("gemm", "nvjet", "cutlass", "xmma", "::mm", "::addmm", "::bmm", "::baddbmm", "::matmul")),
    ("update", ("adam", "Optimizer")),
    ("copies", ("copy", "Memcpy", "memset", "::cat", "::clone", "::contiguous")),
)
"""Kinds of operations, with parts of the names of their kernels or operators; the first that fits counts."""
_AROUND = ("step ", "autograd::engine::evaluate_function")
"""Beginnings of the names of ranges around operations."""
_REST = "elementwise and everything else"


class OperationTime(NamedTuple):
    """Seconds of one operation, without those that it calls."""

    name: str
    seconds: float
    calls: int


def operation_times(profiler: profile, on_gpu: bool) -> list[OperationTime]:
    """Kernels, on a CPU operators, with the time that each takes itself, the longest first."""
    events = [
        OperationTime(
            event.key, (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6, event.count
        )
        for event in profiler.key_averages()
        if not (on_gpu and event.key.startswith("aten::"))
    ]
    return sorted((event for event in events if event.seconds > 0), key=lambda event: -event.seconds)


def kind_of(operation: str) -> str:
    """Kind of work of a kernel or operator."""
    lower = operation.lower()
    return next((kind for kind, parts in _KINDS if any(part.lower() in lower for part in parts)), _REST)


class StepProfiler:
    """Profiles the steps that `monitor.profile` names on its ranks.

    Args:
        settings: None: nothing is profiled.

    Raises:
        ValueError: there is no such rank.
    """

    def __init__(self, settings: ProfileConfig | None, output: Path, engine: Engine, log: RunLog) -> None:
        self._settings, self._folder, self._log = settings, output / FOLDER, log
        self._rank, self._topology = engine.rank, str(engine.topology)
        self._on_gpu = torch.cuda.is_available()
        self._profiler: profile | None = None
        self._steps, self._started = 0, 0.0
        self._is_done = settings is None
        if settings is None:
            return
        if max(settings.ranks) >= engine.topology.world_size:
            raise ValueError(
                f"monitor.profile.ranks: {max(settings.ranks)} must be below the number of processes, "
                f"{engine.topology.world_size}"
            )
        if engine.rank in settings.ranks:
            engine.around_instructions(_named)

    @contextmanager
    def around(self, step: int) -> Iterator[None]:
        """The context in which a step runs."""
        settings = self._settings
        if settings is None or self._is_done or not settings.first_step <= step <= settings.last_step:
            yield
            return
        if self._rank in settings.ranks and self._profiler is None:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_gpu else [])]
            self._profiler = profile(activities=activities)
            self._profiler.start()
            self._started = time.perf_counter()
        with record_function(f"step {step}"):
            yield
        self._steps += 1
        if step == settings.last_step:
            self._finish(settings, step)

    def close(self, step: int) -> None:
        """Write what has been profiled when the run ends before the last step that was asked for."""
        if self._settings is not None and self._steps and not self._is_done:
            self._finish(self._settings, step)

    def _finish(self, settings: ProfileConfig, step: int) -> None:
        self._is_done = True
        first = step - self._steps + 1
        if self._profiler is not None:
            seconds = time.perf_counter() - self._started
            self._profiler.stop()
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"steps-{first}-{step}-rank-{self._rank}"
            with whole_file(self._folder / f"{name}.json") as temporary:
                self._profiler.export_chrome_trace(str(temporary))
            title = f"Steps {first} to {step}, rank {self._rank} of {self._topology}"
            text = summary(title, self._profiler, self._steps, seconds, self._on_gpu)
            write_text(self._folder / f"{name}.txt", text)
            self._profiler = None
        ranks = ", ".join(map(str, settings.ranks))
        note = (
            f"profile of rank {ranks}: {self._folder}; a summary each (.txt), and a trace for https://ui.perfetto.dev"
        )
        self._log.event(step, "profile", note=note, ranks=list(settings.ranks))


def _named(instruction: str, function: Callable[..., None]) -> Callable[..., None]:
    """The function of an instruction, whose time has the instruction's name in a profile."""

    @wraps(function)
    def named(*arguments: Any, **settings: Any) -> None:
        with record_function(_INSTRUCTIONS.get(instruction, instruction)):
            function(*arguments, **settings)

    return named


def summary(title: str, profiler: profile, steps: int, seconds: float, on_gpu: bool) -> str:
    """Where the time of the profiled steps went, as text.

    Args:
        seconds: from the beginning of the first to the end of the last step, evaluations and saves included.
    """
    labels = {*_INSTRUCTIONS.values()}
    ranges = {
        event.key: (event.device_time_total if on_gpu else event.cpu_time_total) / 1e6
        for event in profiler.key_averages()
        if event.key in labels
    }
    operations = [
        operation
        for operation in operation_times(profiler, on_gpu)
        if operation.name not in labels and not operation.name.startswith(_AROUND)
    ]
    kinds: dict[str, float] = {}
    for operation in operations:
        kind = kind_of(operation.name)
        kinds[kind] = kinds.get(kind, 0.0) + operation.seconds
    what = "kernels" if on_gpu else "operators"
    rest = max(0.0, seconds - sum(ranges.values()))
    lines = [
        title,
        f"{steps} steps, {seconds / steps:.3f} s each with all between them (a profiled step takes longer)",
        "",
        f"By part of the schedule, time {'of the kernels that it starts' if on_gpu else 'on the clock'}:",
        *_table([*ranges.items(), ("between them", rest)], steps, seconds),
        "",
        f"By kind of {what}; those of several threads or streams run side by side:",
        *_table(list(kinds.items()), steps, seconds),
        "",
        f"The longest {what}:",
        *(
            f"  {operation.seconds / steps * 1e3:10.2f} ms {operation.seconds / seconds:6.1%} "
            f"{operation.calls / steps:9,.0f} calls  {operation.name[:100]}"
            for operation in operations[:LONGEST_SHOWN]
        ),
        "",
        "Times are for a step; shares are of a step's time on the clock.",
    ]
    return "\n".join(lines) + "\n"


def _table(rows: list[tuple[str, float]], steps: int, whole: float) -> list[str]:
    ordered = sorted(rows, key=lambda row: -row[1])
    return [f"  {seconds / steps * 1e3:10.2f} ms {seconds / whole:6.1%}  {name}" for name, seconds in ordered]
