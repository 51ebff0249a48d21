"""Memory of this process: its peak, and the part that is not file mappings."""

from __future__ import annotations

import re
import resource
import threading
from pathlib import Path
from types import TracebackType

_STATUS = Path("/proc/self/status")
_LOOK_EVERY_SECONDS = 0.02


def peak_bytes() -> int:
    """Peak resident memory of this process, in bytes.

    Without /proc this is `ru_maxrss`, in which Linux also counts the memory that the parent process had at the fork.
    """
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class OwnMemory:
    """Watches the anonymous memory of this process, which the kernel cannot reclaim as it can the pages of mapped
    files.

    Attributes:
        peak_bytes: the largest value seen, sampled every `_LOOK_EVERY_SECONDS`; 0 where there is no /proc.
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
    """Bytes of one field of this process's /proc status; 0 where there is none."""
    if not _STATUS.is_file():
        return 0
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
