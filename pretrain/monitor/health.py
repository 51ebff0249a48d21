"""The health of a run beside its numbers: hangs, slow nodes, memory and disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pretrain.config import MonitorConfig
from pretrain.engine.engine import Engine
from pretrain.launch.exit_codes import ExitCode
from pretrain.launch.stopping import StopRequests
from pretrain.monitor.resources import ResourceWatch
from pretrain.monitor.run_log import RunLog
from pretrain.monitor.stragglers import PassClock, StragglerWatch
from pretrain.monitor.watchdog import Activity, Watchdog


class Health:
    """Checks this rank's process and node between steps.

    Args:
        hosts: node of each rank.
        stops: receives a request to save and stop when memory or disk is about to run out.
        log: receives what is found.
    """

    def __init__(
        self,
        settings: MonitorConfig,
        engine: Engine,
        hosts: Sequence[str],
        watchdog: Watchdog,
        stops: StopRequests,
        log: RunLog,
    ) -> None:
        self._settings = settings
        self._hosts = hosts
        self._watchdog = watchdog
        self._stops = stops
        self._log = log
        clock = PassClock()
        engine.time_passes(clock.around)
        self._stragglers = StragglerWatch(clock, engine.topology, hosts, settings.straggler_share)
        self._resources = ResourceWatch(hosts[engine.rank], settings.memory_stop_share)
        self._checks_memory = hosts.index(hosts[engine.rank]) == engine.rank  # once a node is enough
        self._checks_disk = engine.rank == 0
        self._steps = 0

    def begin(self, activity: Activity, step: int) -> None:
        """Tell the watchdog that the main thread begins something new."""
        self._watchdog.begin(activity, step)

    def after_step(self, step: int) -> None:
        """Check memory and disk; compare the ranks' speed. Collective at every multiple of `stragglers_every_steps`."""
        self._steps += 1
        if self._checks_memory:
            stop = self._resources.out_of_memory_soon()
            if stop is not None:
                self._stops.request(*stop)
        if self._log.no_room is not None:
            self._stops.request(self._log.no_room, ExitCode.REFUSED)
        if step % self._settings.stragglers_every_steps:
            return
        seconds, slow = self._stragglers.check(self._steps)
        self._steps = 0
        by_rank = [round(value, 6) for value in seconds]
        self._log.event(step, "pass seconds", by_rank=by_rank, nodes=list(self._hosts))
        for straggler in slow:
            self._log.event(
                step,
                "straggler",
                note=f"step {step:,}: slow: {straggler}",
                nodes=straggler.hosts,
                ranks=straggler.ranks,
                ratio=round(straggler.ratio, 3),
            )

    def after_save(self, step: int, checkpoint: Path) -> None:
        """Warn when the disk fills up."""
        warning = self._resources.disk_warning(checkpoint) if self._checks_disk else None
        if warning is not None:
            self._log.event(step, "disk", note=warning, warning=warning)
