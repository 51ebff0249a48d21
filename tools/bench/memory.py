"""Memory of this process: its peak, and what of it is no mapped file."""

from __future__ import annotations

import re
import resource
import threading
from pathlib import Path
from types import TracebackType

_STATUS = Path("/proc/self/status")
_LOOK_EVERY_SECONDS = 0.02


def peak_bytes() -> int:
    """The most memory that this process has had resident, in bytes.

    Linux counts to `ru_maxrss` what the process that started this one had at that time, which may be more; where there
    is no /proc, it is all that there is.
    """
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class OwnMemory:
    """Watches the memory that cannot be taken away from this process, unlike pages of files that it has mapped.

    Attributes:
        peak_bytes: the most of it, looked at every `_LOOK_EVERY_SECONDS`; 0 where there is no /proc.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> OwnMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_done.wait(_LOOK_EVERY_SECONDS):
            self.peak_bytes = max(self.peak_bytes, _status("RssAnon"))


def _status(name: str) -> int:
    """Bytes of a field of the kernel's status of this process, 0 where there is none."""
    if not _STATUS.is_file():
        return 0
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
