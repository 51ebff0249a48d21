"""SHA-256 in threads beside the reading and writing of the same bytes, so that it takes no time of its own.

hashlib lets other threads run while it works. One thread hashes 0.5 to 2 GB/s, which bounds a single file.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from foundation.atomic_files import blocks

_THREADS = 4
"""Files that are compared at a time, at most: a disk that is read in more places becomes slower."""
_WAITING = 4
"""Pieces of a file that are written and not hashed yet, at most; they stay in memory."""
_WRITE_BACK_BYTES = 1 << 26
"""Bytes after which the kernel is told to bring them to the disk; on its own it waits for 30 seconds or for a tenth of
the memory (https://docs.kernel.org/admin-guide/sysctl/vm.html, `dirty_background_ratio`), and the disk would idle."""


class HashedFile:
    """A new file that a thread hashes while it is written; made by `hashed_file`.

    Attributes:
        size: number of bytes written.
    """

    def __init__(self, path: Path, pool: ThreadPoolExecutor) -> None:
        self._file = open(path, "wb")  # noqa: SIM115
        self._pool = pool
        self._sha256 = hashlib.sha256()
        self._waiting: deque[Future[None]] = deque()
        self.size = self._started = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes, which must not change any more."""
        self._waiting.append(self._pool.submit(self._sha256.update, data))
        self._file.write(data)
        self.size += len(data)
        if self.size - self._started >= _WRITE_BACK_BYTES and hasattr(os, "posix_fadvise"):
            self._file.flush()
            # of pages that are not on the disk yet, it begins to write them, and keeps them in memory
            os.posix_fadvise(self._file.fileno(), self._started, self.size - self._started, os.POSIX_FADV_DONTNEED)
            self._started = self.size
        self.wait(_WAITING)

    def wait(self, left: int = 0) -> None:
        """Wait until at most `left` pieces are not hashed yet; the others are let go of."""
        while len(self._waiting) > left:
            self._waiting.popleft().result()

    def digest(self) -> str:
        """Hexadecimal SHA-256 of the bytes so far."""
        self.wait()
        return self._sha256.hexdigest()

    def close(self) -> None:
        self._file.close()


@contextmanager
def hashed_file(path: Path) -> Iterator[HashedFile]:
    """Create a file that is closed when the block ends; that it appears whole or not at all is the caller's part."""
    with ThreadPoolExecutor(1, "sha256") as pool:
        file = HashedFile(path, pool)
        try:
            yield file
        finally:
            file.close()


@contextmanager
def verified_meanwhile(files: Sequence[tuple[Path, str]], damaged: Callable[[Path], Exception]) -> Iterator[None]:
    """Compare the SHA-256 of files with the recorded ones, in threads, while the block reads the same files.

    What the block makes of them must not get its name before this context has ended: it belongs inside `whole_folder`.
    An error of the block can be a consequence of damage. So the comparison is finished first, and a damaged file
    reported in its place; except after an OSError, such as that of a full disk, or an interrupt, which end both.

    Args:
        files: place and hexadecimal SHA-256 of each, in the order in which the block reads them.
        damaged: gives the error for a file.

    Raises:
        Exception: the error for the first file that is missing or has another SHA-256.
    """
    is_stopped = threading.Event()

    def compare(path: Path, recorded: str) -> None:
        sha256 = hashlib.sha256()
        for block in blocks(path) if path.is_file() else ():
            if is_stopped.is_set():
                return
            sha256.update(block)
        if sha256.hexdigest() != recorded:
            raise damaged(path)

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), "sha256") as pool:
        compared = [pool.submit(compare, *file) for file in files]
        try:
            try:
                yield
            except OSError:
                raise
            except Exception as error:
                for one in compared:
                    if (found := one.exception()) is not None:
                        raise found from error
                raise
            for one in compared:
                one.result()
        finally:
            is_stopped.set()
