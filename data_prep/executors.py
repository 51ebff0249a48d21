"""Run the units of a stage in worker processes. The only import of datatrove."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.shards import RunDirectory, Stage
from foundation.progress import Progress

_THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "ARROW_NUM_THREADS",
)
_POLL_SECONDS = 0.1


_WATCH = "ends-with-parent"


class UnitError(ValueError):
    """A unit of a stage failed; the message names the unit and the cause."""


def run_units(function: Callable[[str], None], units: Sequence[str], workers: int, title: str, stage: Stage) -> None:
    """Call `function(unit)` for each unit that is not committed yet, in up to `workers` processes.

    `function` commits each unit itself, as its last act; it must be picklable (a module's function, or a
    `functools.partial` of one). One unit, or one worker, runs in this process.

    Raises:
        StaleOutputError: a committed unit was made from another input or setting.
        UnitError: the first failure; what was committed until then stays.
    """
    pending = [unit for unit in units if not stage.is_done(unit)]
    if not pending:
        print(f"{title}: all {len(units)} done already")
        return
    processes = min(workers, len(pending))
    done_before = len(units) - len(pending)
    with (
        tempfile.TemporaryDirectory(prefix="data_prep-", ignore_cleanup_errors=True) as folder,
        Progress(title, len(units), "units", done=done_before) as progress,
    ):
        # datatrove keeps its own logs and completion marks; they live in a temporary folder, because our commit
        # records alone say what is done.
        step = _UnitStep(function, tuple(pending), folder, stage.run)
        with _one_thread_per_worker() if processes > 1 else contextlib.nullcontext():
            executor = _InBackground(step, len(pending), processes, folder)
            reported = 0
            while not executor.wait(_POLL_SECONDS):
                reported = _report(progress, stage, pending, reported)
                step.raise_failure()
                step.raise_lost_worker(stage.name)
        _report(progress, stage, pending, reported)
        step.raise_failure()
        executor.raise_error(stage.name)
    uncommitted = [unit for unit in pending if not (stage.folder / f"{unit}.json").is_file()]
    if uncommitted:
        raise UnitError(f"{stage.name}: {uncommitted[0]} ended without a commit record")


def _report(progress: Progress, stage: Stage, pending: Sequence[str], reported: int) -> int:
    done = sum((stage.folder / f"{unit}.json").is_file() for unit in pending)
    if done > reported:
        progress.advance(done - reported)
    return max(done, reported)


class _UnitStep:
    """A datatrove pipeline step: task number `rank` is one unit. What happens to it is noted in files of `folder`."""

    def __init__(self, function: Callable[[str], None], units: tuple[str, ...], folder: str, run: RunDirectory) -> None:
        self.function = function
        self.units = units
        self.folder = folder
        self.run = run

    def __setstate__(self, state: dict[str, Any]) -> None:
        # runs first in each worker, before datatrove says its first word there
        self.__dict__.update(state)
        _prepare_worker()

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        running = Path(self.folder, f"running-{rank}")
        running.write_text(str(os.getpid()))
        try:
            with self.run.used_by_worker():
                self.function(self.units[rank])
        except Exception as error:
            whole = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            partial = Path(self.folder, f"failure.{rank}.partial")
            partial.write_text(f"{_message(self.units[rank], error)}\0{whole}", encoding="utf-8")
            with contextlib.suppress(FileExistsError):
                os.link(partial, Path(self.folder, "failure"))  # the first one stays
            raise
        finally:
            running.unlink(missing_ok=True)

    def raise_failure(self) -> None:
        failure = Path(self.folder, "failure")
        if failure.exists():
            message, _, whole = failure.read_text(encoding="utf-8").partition("\0")
            raise UnitError(message) from _WorkerTraceback(whole)

    def raise_lost_worker(self, stage: str) -> None:
        # A pool waits for ever for a worker that was killed (out of memory, most often), so we look for ourselves.
        for running in Path(self.folder).glob("running-*"):
            try:
                process = int(running.read_text() or 0)
            except (FileNotFoundError, ValueError):
                continue
            if process and not _is_alive(process) and running.exists():
                unit = self.units[int(running.name.removeprefix("running-"))]
                raise UnitError(
                    f"{stage} {unit}: its worker process {process} was killed, most often for lack of memory; "
                    "lower `workers` or `shard_bytes` and run again, what is committed stays"
                )


class _WorkerTraceback(Exception):
    """Where a worker failed; shown as the cause of an UnitError."""

    def __str__(self) -> str:
        return f"in a worker:\n{self.args[0]}"


class _InBackground:
    """datatrove's local executor on a thread, so that this one can watch, report and be interrupted."""

    def __init__(self, step: _UnitStep, tasks: int, workers: int, folder: str) -> None:
        _silence_datatrove()
        import multiprocess
        from datatrove.executor.local import LocalPipelineExecutor

        # also for datatrove's own queue: forking a process that has threads may copy a lock that nobody will open
        multiprocess.set_start_method("forkserver", force=True)

        self._executor = LocalPipelineExecutor(
            pipeline=[step], tasks=tasks, workers=workers, logging_dir=folder, skip_completed=False
        )
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._executor.run()
        except BaseException as error:
            self._error = error

    def wait(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def raise_error(self, stage: str) -> None:
        if self._error is not None:
            raise UnitError(f"{stage}: {type(self._error).__name__}: {self._error}") from self._error


def _message(unit: str, error: Exception) -> str:
    if isinstance(error, ValueError):
        return f"{unit}: {error}"
    return f"{unit}: {type(error).__name__}: {error}"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _silence_datatrove() -> None:
    from loguru import logger

    logger.disable("datatrove")


def _prepare_worker() -> None:
    """In a new worker process: no words of datatrove, and no life without the parent."""
    import multiprocess

    _silence_datatrove()
    parent = multiprocess.parent_process()
    if parent is None or any(thread.name == _WATCH for thread in threading.enumerate()):
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted as well and ends us

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, name=_WATCH, daemon=True).start()


@contextlib.contextmanager
def _one_thread_per_worker() -> Iterator[None]:
    """Processes are our parallelism; libraries that start a thread for each core in each of them only hinder."""
    before = {name: os.environ.get(name) for name in _THREAD_SETTINGS}
    os.environ.update({name: "1" for name in _THREAD_SETTINGS})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
