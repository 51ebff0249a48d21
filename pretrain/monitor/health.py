"""All that is watched beside the numbers: hangs, slow nodes, memory and disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pretrain.config import MonitorConfig
from pretrain.engine.engine import Engine
from pretrain.launch.exit_codes import ExitCode
from pretrain.launch.stopping import StopRequests
from pretrain.monitor.metrics import MetricsWriter
from pretrain.monitor.progress import TrainingProgress
from pretrain.monitor.resources import ResourceWatch
from pretrain.monitor.stragglers import PassClock, StragglerWatch
from pretrain.monitor.watchdog import Activity, Watchdog


class Health:
    """Looks at this rank's process and node between steps.

    Args:
        hosts: node of each rank.
        stops: is asked to save and stop when memory is about to run out.
    """

    def __init__(
        self,
        settings: MonitorConfig,
        engine: Engine,
        hosts: Sequence[str],
        watchdog: Watchdog,
        stops: StopRequests,
    ) -> None:
        self._settings = settings
        self._hosts = hosts
        self._watchdog = watchdog
        self._stops = stops
        clock = PassClock()
        engine.time_passes(clock.around)
        self._stragglers = StragglerWatch(clock, engine.topology, hosts, settings.straggler_share)
        self._resources = ResourceWatch(hosts[engine.rank], settings.memory_stop_share)
        self._looks_at_memory = os.environ.get("LOCAL_RANK", "0") == "0"  # once a node is enough
        self._steps = 0

    def begin(self, activity: Activity, step: int) -> None:
        """The main thread begins something new: a sign of life for the watchdog."""
        self._watchdog.begin(activity, step)

    def after_step(self, step: int, metrics: MetricsWriter | None, progress: TrainingProgress | None) -> None:
        """Collective at every step that is a multiple of `stragglers_every_steps`."""
        self._steps += 1
        if self._looks_at_memory:
            stop = self._resources.out_of_memory_soon()
            if stop is not None:
                self._stops.request(*stop)
        if metrics and metrics.no_room is not None:
            self._stops.request(metrics.no_room, ExitCode.REFUSED)
        if step % self._settings.stragglers_every_steps:
            return
        seconds, slow = self._stragglers.check(self._steps)
        self._steps = 0
        if metrics and progress:
            rounded = [round(value, 6) for value in seconds]
            metrics.write("event", step=step, event="pass seconds", by_rank=rounded, nodes=list(self._hosts))
            for straggler in slow:
                metrics.write("event", step=step, event="straggler", nodes=straggler.hosts, ranks=straggler.ranks,
                              ratio=round(straggler.ratio, 3))  # fmt: skip
                progress.note(f"step {step:,}: slow: {straggler}")

    def after_save(
        self, step: int, checkpoint: Path, metrics: MetricsWriter | None, progress: TrainingProgress | None
    ) -> None:
        """Rank 0 says when the disk fills up."""
        if metrics and progress:
            warning = self._resources.disk_warning(checkpoint)
            if warning is not None:
                metrics.write("event", step=step, event="disk", warning=warning)
                progress.note(warning)
