"""Settings for all tests: no time limits, no process that outlives pytest, and one share of the slow tests in turn."""

from __future__ import annotations

import os
import sys
import uuid

import pytest
from hypothesis import settings

# Tests run side by side, and torch threads spin while they wait for a core: that costs ten times their own work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test has a time limit: on a busy machine the same example takes ten times as long.
settings.register_profile("altiplano", deadline=None)
settings.load_profile("altiplano")

MARK = "ALTIPLANO_TEST_SESSION"
"""Environment variable of every process that the tests start, by which leftovers are found."""
_REAPER = """
import os, signal, sys
os.setsid()
mark = sys.argv[1].encode()
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
sys.stdin.buffer.read()  # ends when pytest does, however it ends
left = 1
while left:
    left = 0
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/environ", "rb") as file:
                is_ours = mark in file.read()
            if is_ours and int(process) != os.getpid():
                os.kill(int(process), signal.SIGKILL)
                left += 1
        except OSError:
            pass
"""


@pytest.fixture(scope="session", autouse=True)
def _nothing_outlives_pytest() -> None:
    """Kill what the tests have started once pytest is gone, even by SIGKILL: worker processes would keep spinning."""
    if os.path.isdir("/proc/self"):
        mark = uuid.uuid4().hex
        ended, _never_written = os.pipe()  # the other end closes when this process ends
        command = [sys.executable, "-S", "-c", _REAPER, f"{MARK}={mark}"]
        os.posix_spawn(sys.executable, command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, ended, 0)])
        os.close(ended)
        os.environ[MARK] = mark


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow-share",
        metavar="K/N",
        help="run only the slow tests number K, K + N, K + 2N and so on (0 <= K < N)",
    )


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes, a module whose tests share something costly stays in one, which makes it once: by a
    fixture of the module's, or, where results are in a cache, by the module's own mark."""
    for item in items:
        fixtures = item._fixtureinfo.name2fixturedefs.values() if isinstance(item, pytest.Function) else ()
        if any(definition.scope == "module" for definitions in fixtures for definition in definitions):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))
    share = config.getoption("--slow-share")
    if share is None:
        return
    turn, turns = map(int, share.split("/"))
    if not 0 <= turn < turns:
        raise pytest.UsageError(f"--slow-share {share}: K must lie in [0, N)")
    slow = sorted((item for item in items if item.get_closest_marker("slow")), key=lambda item: item.nodeid)
    chosen = {item.nodeid for item in slow[turn::turns]}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in chosen])
    items[:] = [item for item in items if item.nodeid in chosen]
