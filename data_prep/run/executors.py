"""Run the units of a stage in worker processes. The only import of datatrove."""

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
"""Memory that Ray sets aside for a worker; it places fewer on a machine that has less."""
_RAY_RETRIES = 3
"""How often a unit is tried again after its worker was killed. More than once for machines that are taken away; an end,
because a unit that needs more memory than there is would be killed every time."""
_AFTER_A_KILL = "lower `workers` or `shard_bytes` and run again: what is committed stays"


class UnitError(ValueError):
    """A unit of a stage failed; the message names the unit and the cause."""


class ShareDone(Exception):
    """This process has done its share of a stage; what comes after is for one process that does all that is left."""


def run_units(
    function: Callable[[str], None],
    units: Sequence[str],
    workers: int,
    title: str,
    stage: Stage,
    chains: Sequence[Sequence[str]] | None = None,
) -> None:
    """Call `function(unit)` for each unit that is not committed yet, in up to `workers` processes.

    `function` commits each unit itself, as its last act; it must be picklable (a module's function, or a
    `functools.partial` of one). One unit, or one worker, runs in this process.

    Args:
        chains: `units` in groups: those of a group are done in order, by one worker, because each goes on where the one
            before it stopped. Left out: each unit by itself.

    Raises:
        StaleOutputError: a committed unit was made from another input or setting.
        UnitError: the first failure. Units that are being worked at are finished, no new ones are begun, and what is
            committed stays.
        ShareDone: the run is shared out, and the units that are this process's are done.
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
        print(f"{title}: all {len(mine)} done already")
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
        # other machines see the run's folder, not this one's temporary files
        tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=stage.run.root if is_on_ray else None) as folder,
        Progress(title, done + len(pending), "units", done=done) as progress,
    ):
        step = _TaskStep(function, tuple(tasks), folder, stage)
        report = _Report(progress, stage, pending)
        try:
            (_execute_on_ray if is_on_ray else _execute)(step, workers, folder, report)
        except BrokenProcessPool:
            raise UnitError(
                f"{stage.name}: a worker process was killed, most often for lack of memory, while it worked at "
                f"{' or '.join(step.running())}; {_AFTER_A_KILL}"
            ) from None
        except _StepError:
            step.raise_failure()
        report.look()
    if report.waiting:
        raise UnitError(f"{stage.name}: {min(report.waiting)} ended without a commit record")


class _Report:
    """Progress by commit records, which tell the truth whoever writes them."""

    def __init__(self, progress: Progress, stage: Stage, pending: Sequence[str]) -> None:
        self._progress = progress
        self._stage = stage
        self.waiting = set(pending)

    def __call__(self, units: Iterable[str]) -> None:
        """Count those of `units` that are committed."""
        self._count({unit for unit in units if (self._stage.folder / f"{unit}.json").is_file()})

    def look(self) -> None:
        """Count whatever is committed, by one look at the folder.

        NFS may answer that a single file is not there for half a minute after another machine has written it; a
        listing is up to date.
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
    """Run every rank of the step as a task of Ray: on the cluster that RAY_ADDRESS names, else on this machine.

    Ray reports a killed worker or a lost machine by itself, and another worker takes over the rank.

    Raises:
        UnitError: there is no room for a single worker, workers were killed again and again at one unit, or the
            cluster itself is gone.
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
        # Ray would wait for a larger machine to join, which a cluster may be about to start and this machine is not
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
                        f"memory, each of the {kills[rank]} times it worked at {step.next_unit(rank)}; {_AFTER_A_KILL}",
                    )
            report(step.tasks[rank])
    except RayError as error:
        ray.shutdown()
        raise UnitError(
            f"{step.stage_name}: Ray has failed ({type(error).__name__}: {str(error).strip().splitlines()[0]}); "
            "run again when it works: what is committed stays"
        ) from error
    except BaseException:
        ray.shutdown()  # ends what its workers are at
        raise
    if step.has_failed:
        raise _StepError


def _datatrove_executor(step: _TaskStep, workers: int, folder: str) -> Any:
    """datatrove's local executor, of which we use the part that runs a rank.

    Its own pools, here and on Ray, wait for ever for a worker that was killed. Its logs and completion marks go to a
    temporary folder, because our commit records alone say what is done; `skip_completed=False` keeps it from having an
    opinion.
    """
    _silence_datatrove()
    from datatrove.executor.local import LocalPipelineExecutor

    return LocalPipelineExecutor(
        pipeline=[step], tasks=len(step.tasks), workers=workers, logging_dir=folder, skip_completed=False
    )


def _write_executor(executor: Any, folder: str) -> Path:
    """A file that each worker reads once: sent along with every task, the list of tasks would grow as its square."""
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
    """Worker processes, started as they are needed; without a failure they stay for the stages that follow.

    Starting them, with all that they import, takes longer than many a stage.
    """
    pool = _idle_pools.pop(workers, None)
    if pool is None:
        # forkserver: forking a process that has threads may copy a lock that nobody will open
        context = multiprocessing.get_context("forkserver")
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare_worker)
    try:
        yield pool
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            for process in list((pool._processes or {}).values()):  # to shut down would wait for units that run
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    _idle_pools[workers] = pool


class _StepError(Exception):
    """A unit failed; what and where stands in the file `failure`."""


class _WorkerTraceback(Exception):
    """Where a worker failed; shown as the cause of an UnitError."""

    def __str__(self) -> str:
        return f"in a worker:\n{self.args[0]}"


class _TaskStep:
    """A datatrove pipeline step: task number `rank` is some units. What happens to it is noted in files of `folder`."""

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
                raise _StepError  # no new ones are begun
            if (self.records / f"{unit}.json").is_file():
                continue  # Ray gives a rank whose machine was lost to another one
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
        """Make this the failure of the step, unless there is one already; units that are not begun stay undone."""
        partial = Path(self.folder, f"failure.{rank}.partial")
        with room_for(partial):
            partial.write_text(f"{message}\0{worker_traceback}", encoding="utf-8")
        put_if_absent(partial, Path(self.folder, "failure"))  # the first one stays

    def next_unit(self, rank: int) -> str:
        """The first unit of a task that is not committed."""
        return next((unit for unit in self.tasks[rank] if not (self.records / f"{unit}.json").is_file()), "no unit")

    @property
    def has_failed(self) -> bool:
        return Path(self.folder, "failure").exists()

    def running(self) -> list[str]:
        """Units that were begun and not ended."""
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
    # Three log handlers for each task, which would log nothing, took three times as long as a shard of one document.
    base.add_task_logger = lambda *_, **__: None
    base.close_task_logger = lambda *_, **__: None


def _prepare_worker() -> None:
    """Make a new worker process end with its parent, and only then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted as well and ends us
    # Here again: a forkserver that something else has started before does not have our environment.
    os.environ.update({name: "1" for name in _THREAD_SETTINGS})
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


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
