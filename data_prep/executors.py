"""Run the units of a stage in worker processes. The only import of datatrove."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_prep.shards import Stage
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
_RAY_POLL_SECONDS = 2.0
_SIGN_SECONDS = 5.0
_SILENT_SECONDS = 300.0
"""Without a sign of life for so long, a process on the cluster is taken for dead; compiling a kernel, which keeps
Python from running, takes a tenth of it."""
_RAY_WORKER_GIGABYTES = 1.0
"""What Ray sets aside for a worker; it places fewer on a machine that has less."""


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
        tempfile.TemporaryDirectory(prefix=".work-", dir=stage.run.root if is_on_ray else None) as folder,
        Progress(title, done + len(pending), "units", done=done) as progress,
    ):
        if is_on_ray:
            tasks = [tuple(itertools.chain(*tasks[rank::workers])) for rank in range(min(workers, len(tasks)))]
        step = _TaskStep(function, tuple(tasks), folder, stage)
        try:
            (_execute_on_ray if is_on_ray else _execute)(step, workers, folder, _Report(progress, stage, pending))
        except BrokenProcessPool:
            raise UnitError(
                f"{stage.name}: a worker process was killed, most often for lack of memory, while it worked at "
                f"{' or '.join(step.running())}; lower `workers` or `shard_bytes` and run again: what is committed "
                "stays"
            ) from None
        except _StepError:
            step.raise_failure()
    uncommitted = [unit for unit in pending if not (stage.folder / f"{unit}.json").is_file()]
    if uncommitted:
        raise UnitError(f"{stage.name}: {uncommitted[0]} ended without a commit record")


class _Report:
    """Progress by commit records, which tell the truth whoever writes them."""

    def __init__(self, progress: Progress, stage: Stage, pending: Sequence[str]) -> None:
        self._progress = progress
        self._stage = stage
        self._waiting = set(pending)

    def __call__(self, units: Iterable[str] = ()) -> None:
        """Count those of `units` that are committed."""
        done = {unit for unit in units if unit in self._waiting and (self._stage.folder / f"{unit}.json").is_file()}
        self._waiting -= done
        if done:
            self._progress.advance(len(done))

    def look(self) -> None:
        """Count whatever is committed, by one look at the folder; for units that other machines work at."""
        names = os.listdir(self._stage.folder) if self._stage.folder.is_dir() else []
        self(name.removesuffix(".json") for name in names)


def _execute(step: _TaskStep, workers: int, folder: str, report: _Report) -> None:
    """Run every rank of the step under datatrove's local executor, with a pool of our own.

    datatrove's own pool waits for ever for a worker that was killed, and the manager process of its queue outlives a
    killed parent. Its logs and completion marks live in a temporary folder, because our commit records alone say what
    is done; `skip_completed=False` keeps it from having an opinion.
    """
    _silence_datatrove()
    from datatrove.executor.local import LocalPipelineExecutor

    ranks = range(len(step.tasks))
    executor = LocalPipelineExecutor(
        pipeline=[step], tasks=len(ranks), workers=workers, logging_dir=folder, skip_completed=False
    )
    if min(workers, len(ranks)) == 1:
        for rank in ranks:
            executor._run_for_rank(rank)
            report(step.tasks[rank])
        return
    # By a file that each worker reads once: sent along with every task, the list of all tasks would grow as its square.
    path = Path(folder, "executor")
    with room_for(path):
        path.write_bytes(pickle.dumps(executor))
    with _one_thread_per_worker(), _pool(workers) as pool:
        rank_of = {pool.submit(_run_rank, path, rank): rank for rank in ranks}
        for future in as_completed(rank_of):
            future.result()
            report(step.tasks[rank_of[future]])


def _execute_on_ray(step: _TaskStep, workers: int, folder: str, report: _Report) -> None:
    """Run the step under datatrove's Ray executor: on the cluster that RAY_ADDRESS names, else on this machine.

    Ray starts anew for every rank, which takes seconds, so a rank is a share of the units and not one of them.
    """
    try:
        import ray
    except ImportError:
        raise UnitError("executor=ray needs Ray on every machine: pip install 'altiplano[ray]'") from None
    _silence_datatrove()
    from datatrove.executor.ray import RayPipelineExecutor

    if not ray.is_initialized():
        variables = {name: "1" for name in _THREAD_SETTINGS}
        ray.init(log_to_driver=False, include_dashboard=False, runtime_env={"env_vars": variables})
    executor = RayPipelineExecutor(
        pipeline=[step],
        tasks=len(step.tasks),
        workers=workers,
        logging_dir=folder,
        skip_completed=False,
        mem_per_cpu_gb=_RAY_WORKER_GIGABYTES,
    )
    failure: list[BaseException] = []

    def run() -> None:
        try:
            executor.run()
        except BaseException as error:
            failure.append(error)

    # a daemon: Ray's worker waits for ever for a process of its own that was killed, and nobody must wait for it
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    silence = _Silence(Path(folder))
    while thread.is_alive():
        thread.join(_RAY_POLL_SECONDS)
        report.look()
        if silent := silence.units(time.monotonic()):
            ray.shutdown()
            raise UnitError(
                f"{step.stage_name}: a process on the Ray cluster was killed, most often for lack of memory, while it "
                f"worked at {' or '.join(silent)}: it gave no sign for {_SILENT_SECONDS:g} s; lower `workers` or "
                "`shard_bytes` and run again: what is committed stays"
            )
    report.look()
    if failure:
        raise failure[0]
    if step.has_failed:
        raise _StepError


class _Silence:
    """Which units are worked at by processes that give no sign of life any more."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[Path, tuple[int, float]] = {}  # note -> its time of change, and when that was first seen

    def units(self, now: float) -> list[str]:
        """The units whose notes have not changed for `_SILENT_SECONDS` of this machine's clock."""
        silent = []
        for note in sorted(self._folder.glob("running-*")):
            with contextlib.suppress(FileNotFoundError):  # its unit has just ended
                changed = note.stat().st_mtime_ns
                if self._seen.get(note, (None,))[0] != changed:
                    self._seen[note] = (changed, now)
                elif now - self._seen[note][1] >= _SILENT_SECONDS:
                    silent.append(note.read_text(encoding="utf-8"))
        return silent


@contextlib.contextmanager
def _signs_of_life(note: Path) -> Iterator[None]:
    """While a unit is worked at, its note changes every few seconds."""
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(_SIGN_SECONDS):
            with contextlib.suppress(FileNotFoundError):
                os.utime(note)

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _run_rank(path: Path, rank: int) -> None:
    _executor_at(path)._run_for_rank(rank)


@lru_cache(maxsize=1)
def _executor_at(path: Path) -> Any:
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
                signs = _signs_of_life(running) if self.run.executor == "ray" else contextlib.nullcontext()
                with self.run.used_by_worker(), signs:
                    self.function(unit)
            except Exception as error:
                self._note_failure(rank, unit, error)
                raise _StepError from None
            running.unlink()

    def _note_failure(self, rank: int, unit: str, error: Exception) -> None:
        whole = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        partial = Path(self.folder, f"failure.{rank}.partial")
        with room_for(partial):
            partial.write_text(f"{_message(unit, error)}\0{whole}", encoding="utf-8")
        put_if_absent(partial, Path(self.folder, "failure"))  # the first one stays

    @property
    def has_failed(self) -> bool:
        return Path(self.folder, "failure").exists()

    def running(self) -> list[str]:
        """Units that were begun and not ended."""
        notes = sorted(Path(self.folder).glob("running-*"), key=lambda path: int(path.name.removeprefix("running-")))
        return [path.read_text(encoding="utf-8") for path in notes] or ["no unit"]

    def raise_failure(self) -> None:
        message, _, whole = Path(self.folder, "failure").read_text(encoding="utf-8").partition("\0")
        raise UnitError(message) from _WorkerTraceback(whole)


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
    """In a new worker process: no words of datatrove, and no life without the parent."""
    _silence_datatrove()
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
