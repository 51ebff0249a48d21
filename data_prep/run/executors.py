"""Execution of a stage's units in worker processes. The only module that imports datatrove."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_prep.run.commit_records import Stage
from data_prep.run.directory import WORK_PREFIX
from foundation.atomic_files import NoRoomError, put_if_absent, room_for
from foundation.progress import Progress

_THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "ARROW_NUM_THREADS",
)
_RAY_WORKER_BYTES = 1 << 30
"""Memory that Ray reserves for a worker; machines with less memory get fewer workers."""
_RAY_RETRIES = 3
"""Number of retries of a unit after its worker was killed: several, for preempted machines, but limited, because a unit
that exceeds the memory would be killed every time."""
_AFTER_A_KILL = "lower `workers` or `shard_bytes` and run again: finished work is kept"


class UnitError(ValueError):
    """A unit of a stage failed; the message names the unit and the cause."""


class ShareDone(Exception):
    """This process has done its share of a stage; a single process does the following steps."""


def run_units(
    function: Callable[[str], None],
    units: Sequence[str],
    workers: int,
    title: str,
    stage: Stage,
    chains: Sequence[Sequence[str]] | None = None,
) -> None:
    """Call `function(unit)` for each unit that is not committed yet, in up to `workers` processes.

    `function` commits each unit as its last step; it must be picklable (a module's function, or a `functools.partial`
    of one). A single unit or worker runs in this process.

    Args:
        chains: groups of units that one worker must do in order, because each continues where the one before it
            stopped. Left out: units are independent.

    Raises:
        StaleOutputError: a committed unit was made from another input or setting.
        UnitError: the first failure. Running units are finished, no new ones are started, and committed units are kept.
        ShareDone: this process has a share of the stage, and its units are done.
    """
    tasks = [tuple(chain) for chain in (chains if chains is not None else [(unit,) for unit in units])]
    share = stage.run.share
    if share is not None:
        tasks = tasks[share.rank :: share.processes]
        title = f"{title}, share {share.rank} of {share.processes}"
    mine = [unit for task in tasks for unit in task]
    todo = {unit for unit in mine if not stage.is_done(unit)}
    if todo:
        for unit in todo:
            stage.forget_lost(unit)
        tasks = [left for task in tasks if (left := tuple(unit for unit in task if unit in todo))]
        _run_tasks(function, tasks, workers, title, stage, done=len(mine) - len(todo))
    else:
        print(f"{title}: all {len(mine)} already done")
    if share is not None:
        raise ShareDone(f"{title}: its {len(mine)} of {len(units)} units are done")


def _run_tasks(
    function: Callable[[str], None],
    tasks: Sequence[tuple[str, ...]],
    workers: int,
    title: str,
    stage: Stage,
    done: int,
) -> None:
    pending = [unit for task in tasks for unit in task]
    is_on_ray = stage.run.executor == "ray"
    with (
        # other machines share the run's folder, not the temporary files of this one
        tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=stage.run.root if is_on_ray else None) as folder,
        Progress(title, done + len(pending), "units", done=done) as progress,
    ):
        step = _TaskStep(function, tuple(tasks), folder, stage)
        report = _Report(progress, stage, pending)
        try:
            (_execute_on_ray if is_on_ray else _execute)(step, workers, folder, report)
        except BrokenProcessPool:
            raise UnitError(
                f"{stage.name}: a worker process was killed, most often for lack of memory, while it ran "
                f"{' or '.join(step.running())}; {_AFTER_A_KILL}"
            ) from None
        except _StepError:
            step.raise_failure()
        report.look()
    if report.waiting:
        raise UnitError(f"{stage.name}: {min(report.waiting)} ended without a commit record")


class _Report:
    """Progress by commit records, whichever process writes them."""

    def __init__(self, progress: Progress, stage: Stage, pending: Sequence[str]) -> None:
        self._progress = progress
        self._stage = stage
        self.waiting = set(pending)

    def __call__(self, units: Iterable[str]) -> None:
        """Count the committed ones of `units`."""
        self._count({unit for unit in units if (self._stage.folder / f"{unit}.json").is_file()})

    def look(self) -> None:
        """Count all committed units by listing the folder.

        NFS may report a file as missing for half a minute after another machine has written it; a listing is up to
        date.
        """
        if self.waiting and self._stage.folder.is_dir():
            self._count({name.removesuffix(".json") for name in os.listdir(self._stage.folder)})

    def _count(self, committed: set[str]) -> None:
        done = self.waiting & committed
        self.waiting -= done
        if done:
            self._progress.advance(len(done))


def _execute(step: _TaskStep, workers: int, folder: str, report: _Report) -> None:
    """Run every rank of the step in this process or in a pool of worker processes."""
    executor = _datatrove_executor(step, workers, folder)
    ranks = range(len(step.tasks))
    if min(workers, len(ranks)) == 1:
        for rank in ranks:
            executor._run_for_rank(rank)
            report(step.tasks[rank])
        return
    path = _write_executor(executor, folder)
    with _one_thread_per_worker(), _pool(workers) as pool:
        rank_of = {pool.submit(_run_rank, path, rank): rank for rank in ranks}
        for future in as_completed(rank_of):
            future.result()
            report(step.tasks[rank_of[future]])


def _execute_on_ray(step: _TaskStep, workers: int, folder: str, report: _Report) -> None:
    """Run every rank of the step as a Ray task, on the cluster that RAY_ADDRESS names, or else on this machine.

    Ray reports killed workers and lost machines, and another worker takes over the rank.

    Raises:
        UnitError: there is no room for a single worker, workers were killed repeatedly at the same unit, or the cluster
            is lost.
    """
    try:
        import ray
    except ImportError:
        raise UnitError("executor=ray needs Ray on every machine: pip install 'altiplano[ray]'") from None
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

    if not ray.is_initialized():
        variables = {name: "1" for name in _THREAD_SETTINGS}
        ray.init(log_to_driver=False, include_dashboard=False, runtime_env={"env_vars": variables})
    there = ray.cluster_resources()
    if "RAY_ADDRESS" not in os.environ and (there.get("CPU", 0) < 1 or there.get("memory", 0) < _RAY_WORKER_BYTES):
        # Ray would wait for a larger machine to join, which can happen on a cluster only
        raise UnitError(
            f"{step.stage_name}: Ray has {there.get('CPU', 0):g} CPUs and {there.get('memory', 0) / 1e9:,.1f} GB of "
            f"memory on this machine, and a worker takes 1 and {_RAY_WORKER_BYTES / 1e9:,.1f} GB: free some memory, "
            "name a cluster by RAY_ADDRESS, or use executor=local"
        )
    path = _write_executor(_datatrove_executor(step, workers, folder), folder)
    run_rank = ray.remote(num_cpus=1, memory=_RAY_WORKER_BYTES, max_retries=0)(_run_rank)
    waiting = deque(range(len(step.tasks)))
    running: dict[Any, int] = {}
    kills: Counter[int] = Counter()
    try:
        while running or (waiting and not step.has_failed):
            while waiting and len(running) < workers and not step.has_failed:
                rank = waiting.popleft()
                running[run_rank.remote(path, rank)] = rank
            (task,), _ = ray.wait(list(running))
            rank = running.pop(task)
            try:
                ray.get(task)
            except RayTaskError as error:
                if not step.has_failed:
                    raise (error.cause or error) from None
            except (WorkerCrashedError, OutOfMemoryError, NodeDiedError):
                kills[rank] += 1
                waiting.append(rank)
                if kills[rank] > _RAY_RETRIES:
                    step.note_failure(
                        rank,
                        f"{step.stage_name}: a worker process on the Ray cluster was killed, most often for lack of "
                        f"memory, each of the {kills[rank]} times it ran {step.next_unit(rank)}; {_AFTER_A_KILL}",
                    )
            report(step.tasks[rank])
    except RayError as error:
        ray.shutdown()
        raise UnitError(
            f"{step.stage_name}: Ray has failed ({type(error).__name__}: {str(error).strip().splitlines()[0]}); "
            "run again when it works: finished work is kept"
        ) from error
    except BaseException:
        ray.shutdown()  # stops its workers
        raise
    if step.has_failed:
        raise _StepError


def _datatrove_executor(step: _TaskStep, workers: int, folder: str) -> Any:
    """Return datatrove's local executor, of which only the part that runs a rank is used.

    Its own pools, here and on Ray, wait forever for a killed worker. Its logs and completion marks go to a temporary
    folder, and `skip_completed=False` makes it ignore them, because commit records alone determine what is done.
    """
    _silence_datatrove()
    from datatrove.executor.local import LocalPipelineExecutor

    return LocalPipelineExecutor(
        pipeline=[step], tasks=len(step.tasks), workers=workers, logging_dir=folder, skip_completed=False
    )


def _write_executor(executor: Any, folder: str) -> Path:
    """Write the executor to a file that each worker reads once: if it were sent with every task, the total would grow
    with the square of the number of tasks."""
    path = Path(folder, "executor")
    with room_for(path):
        path.write_bytes(pickle.dumps(executor))
    return path


def _run_rank(path: Path, rank: int) -> None:
    _executor_at(path)._run_for_rank(rank)


@lru_cache(maxsize=1)
def _executor_at(path: Path) -> Any:
    _silence_datatrove()
    return pickle.loads(path.read_bytes())


_idle_pools: dict[int, ProcessPoolExecutor] = {}


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of worker processes, started as needed; unless a unit fails, the following stages reuse it.

    Starting them, with their imports, takes longer than some stages.
    """
    pool = _idle_pools.pop(workers, None)
    if pool is None:
        # forkserver: forking a process with threads may copy a lock that is never released
        context = multiprocessing.get_context("forkserver")
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare_worker)
    try:
        yield pool
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            for process in list((pool._processes or {}).values()):  # shutdown would wait for running units
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    _idle_pools[workers] = pool


class _StepError(Exception):
    """A unit failed; the details are in the file `failure`."""


class _WorkerTraceback(Exception):
    """Traceback of a worker, shown as the cause of a UnitError."""

    def __str__(self) -> str:
        return f"in a worker:\n{self.args[0]}"


class _TaskStep:
    """A datatrove pipeline step: task number `rank` is some units. Its state is in files of `folder`."""

    def __init__(
        self, function: Callable[[str], None], tasks: tuple[tuple[str, ...], ...], folder: str, stage: Stage
    ) -> None:
        self.function = function
        self.tasks = tasks
        self.folder = folder
        self.run = stage.run
        self.stage_name = stage.name
        self.records = stage.folder

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        for unit in self.tasks[rank]:
            if self.has_failed:
                raise _StepError  # no new ones are started
            if (self.records / f"{unit}.json").is_file():
                continue  # Ray assigns the rank of a lost machine to another one
            running = Path(self.folder, f"running-{rank}")
            with room_for(running):
                running.write_text(unit, encoding="utf-8")
            try:
                with self.run.used_by_worker():
                    self.function(unit)
            except Exception as error:
                whole = "".join(traceback.format_exception(type(error), error, error.__traceback__))
                self.note_failure(rank, _message(unit, error), whole)
                raise _StepError from None
            running.unlink()

    def note_failure(self, rank: int, message: str, worker_traceback: str = "") -> None:
        """Record the failure of the step, unless there is one already; units that have not started are not done."""
        partial = Path(self.folder, f"failure.{rank}.partial")
        with room_for(partial):
            partial.write_text(f"{message}\0{worker_traceback}", encoding="utf-8")
        put_if_absent(partial, Path(self.folder, "failure"))  # the first one stays

    def next_unit(self, rank: int) -> str:
        """Return the first unit of a task that is not committed."""
        return next((unit for unit in self.tasks[rank] if not (self.records / f"{unit}.json").is_file()), "no unit")

    @property
    def has_failed(self) -> bool:
        return Path(self.folder, "failure").exists()

    def running(self) -> list[str]:
        """Return the units that have started and not ended."""
        notes = sorted(Path(self.folder).glob("running-*"), key=lambda path: int(path.name.removeprefix("running-")))
        return [path.read_text(encoding="utf-8") for path in notes] or ["no unit"]

    def raise_failure(self) -> None:
        message, _, whole = Path(self.folder, "failure").read_text(encoding="utf-8").partition("\0")
        raise UnitError(message) from (_WorkerTraceback(whole) if whole else None)


def _message(unit: str, error: Exception) -> str:
    if isinstance(error, (ValueError, NoRoomError)):
        return f"{unit}: {error}"
    return f"{unit}: {type(error).__name__}: {error}"


def _silence_datatrove() -> None:
    from datatrove.executor import base
    from loguru import logger

    logger.disable("datatrove")
    # Three log handlers for each task, although disabled, took three times as long as a shard of one document.
    base.add_task_logger = lambda *_, **__: None
    base.close_task_logger = lambda *_, **__: None


def _prepare_worker() -> None:
    """Make a new worker process end with its parent, and not on an interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends the workers
    # Set again here: a forkserver that was started earlier does not have this environment.
    os.environ.update({name: "1" for name in _THREAD_SETTINGS})
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextlib.contextmanager
def _one_thread_per_worker() -> Iterator[None]:
    """Limit libraries to one thread for each process: the processes already use all cores."""
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
