"""Files and folders that are complete and on disk, or absent; and digests of their contents."""

from __future__ import annotations

import errno
import fcntl
import filecmp
import hashlib
import io
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PARTIAL_SUFFIX = ".partial"
_PROBES = 64
_PROBE_BYTES = 4096
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""Errors of file systems without hard links; which one is raised depends on the system."""

NewFile = Callable[[Path], AbstractContextManager[Path]]
"""Opener of a file that appears complete or not at all: `whole_file`, or a partial of it."""


class NoRoomError(OSError):
    """The disk, a quota or the file size limit is exhausted; the message names the file and the remedy."""

    def __str__(self) -> str:
        return str(self.strerror)


class OtherContentError(ValueError):
    """The file exists already, with other bytes than this process has written for it."""


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Context in which `path`, or its temporary name, is written.

    Raises:
        NoRoomError: there is no room; replaces the system's error, which names no file.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM or isinstance(error, NoRoomError):
            raise
        raise NoRoomError(error.errno, _no_room(error.errno, path)) from error


def _no_room(number: int, path: Path) -> str:
    again = "run the same command again: finished work is kept"
    path = path.with_name(path.name.removesuffix(PARTIAL_SUFFIX))
    names = (path.with_name(path.name + PARTIAL_SUFFIX), path)
    written = next((name.stat().st_size for name in names if name.is_file()), 0)
    message = f"{os.strerror(number)}: {path}, of which {written:,} bytes were written"
    if number == errno.EFBIG:
        return f"{message}; let this process write larger files (`ulimit -f`) and {again}"
    disk = shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.is_dir()))
    message += f"; {disk.free:,} of {disk.total:,} bytes are free there"
    if number == errno.EDQUOT:
        return f"{message}, but not to this user: make room in your quota and {again}"
    return f"{message}: make room and {again}"


@contextmanager
def whole_file(path: Path, *, keep_first: bool = False, digests: dict[Path, str] | None = None) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; it becomes `path` when the block ends without an error.

    The content is synced before the name changes and the folder after it, so that a crash leaves the old file, the new
    file or none, never a part. The temporary name is `<name>.partial`, and the next process overwrites what a killed
    one left behind. While another process writes to that name, this process uses a name of its own. If two processes
    write at the same time, the last to finish wins, unless the first is kept.

    Args:
        keep_first: a file that exists when the block ends is not replaced, and must have the same bytes.
        digests: receives the SHA-256 of the file under `path`, computed before the file is renamed.

    Raises:
        OtherContentError: with `keep_first`, another process has written a file with other bytes.
        FileNotFoundError: the block wrote nothing to the temporary name.
        NoRoomError: the disk is full.
    """
    path = Path(path)
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, held = _private_name(path)
    try:
        with room_for(temporary):
            yield temporary
            if not temporary.is_file() or temporary.stat().st_mtime_ns == 0:
                raise FileNotFoundError(f"{path}: nothing was written to {path.name}{PARTIAL_SUFFIX}")
            sync(temporary)
            digest_of_written = sha256_file(temporary) if digests is not None else ""
            if keep_first:
                _place_first(temporary, path)
            else:
                os.replace(temporary, path)
            sync(path.parent)
            if digests is not None:
                digests[path] = digest_of_written
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(held)


def _place_first(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path` unless another process was first, which must have written the same bytes."""
    if not put_if_absent(temporary, path) and not filecmp.cmp(temporary, path, shallow=False):
        raise OtherContentError(
            f"{path}: another process has written a file with other bytes than this process: they use "
            "different code, settings or libraries. Let all of them run the same, and use `--restart` for the stage "
            "that writes this file"
        )
    temporary.unlink(missing_ok=True)


def put_if_absent(temporary: Path, path: Path) -> bool:
    """Give a complete file its final name; False: a file of that name exists, and is kept.

    `temporary` is removed only on file systems without hard links, where it is renamed under a lock.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # No O_EXCL: a process killed between creating the file and filling it would leave an incomplete one.
        with open(path.with_name(".placing"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return False
            os.replace(temporary, path)
    return True


def _private_name(path: Path) -> tuple[Path, int]:
    """Return the name of an empty file beside `path` that no other process writes to, and an open descriptor that locks
    it."""
    for number in range(1000):
        own = f"{path.name}.{socket.gethostname()}-{os.getpid()}-{number}" if number else path.name
        temporary = path.with_name(own + PARTIAL_SUFFIX)
        held = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
        if _holds(held, temporary, is_own=number > 0):
            os.ftruncate(held, 0)
            os.utime(temporary, ns=(0, 0))  # marks the file as not written yet
            return temporary, held
        os.close(held)
    raise AssertionError("a process writes one file a thousand times at once")


def _holds(held: int, temporary: Path, is_own: bool) -> bool:
    """Return whether this process is the only one that writes to the temporary file."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return is_own  # no locks on this file system: rely on a name that no other process uses
    try:
        if not os.path.samestat(os.fstat(held), os.stat(temporary)):
            return False  # renamed before it was locked
        if os.fstat(held).st_nlink > 1:  # a process was killed after it had renamed the file, which is complete
            temporary.unlink()
            return False
    except FileNotFoundError:
        return False
    return True


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; it becomes `path`, files synced, when the block ends without an
    error.

    Raises:
        FileExistsError: `path` exists; a folder cannot be replaced in one step.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already; remove it or choose another name")
    temporary = path.with_name(path.name + PARTIAL_SUFFIX)
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for inner in sorted(temporary.rglob("*")):
            sync(inner)
        sync(temporary)
        os.rename(temporary, path)
        sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def restrict_file_modes() -> None:
    """Make files that this process writes from now on writable by their owner only, whatever the shell's umask: whoever
    can change a checkpoint or token file can change what the next run executes."""
    os.umask(os.umask(0o022) | 0o022)


def write_text(path: Path, text: str, new_file: NewFile = whole_file) -> None:
    """Write a UTF-8 text file atomically."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, new_file: NewFile = whole_file) -> None:
    """Write an indented JSON file atomically; keys keep their order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", new_file)


def write_array(path: Path, array: npt.NDArray[Any], new_file: NewFile = whole_file) -> None:
    """Write a `.npy` file atomically."""
    content = io.BytesIO()  # numpy's own writing to a file does not report why it fails
    np.save(content, array)
    with new_file(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def blocks(path: Path) -> Iterator[memoryview]:
    """Read a file in blocks of up to 1 MiB; each is valid until the next one is read."""
    block = memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            yield block[:count]


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    sha256 = hashlib.sha256()
    for block in blocks(path):
        sha256.update(block)
    return sha256.hexdigest()


def fingerprint(path: Path) -> str:
    """SHA-256 over the size of a file and 64 blocks of 4 KiB spread evenly over it, first and last included.

    It distinguishes files of the same length without reading a terabyte. It does not detect a single changed byte, as
    `sha256_file` does.
    """
    size = path.stat().st_size
    sha256 = hashlib.sha256(size.to_bytes(8, "little"))
    last = max(0, size - _PROBE_BYTES)
    with open(path, "rb") as stream:
        for offset in sorted({last * probe // (_PROBES - 1) for probe in range(_PROBES)}):
            stream.seek(offset)
            sha256.update(stream.read(_PROBE_BYTES))
    return sha256.hexdigest()


def digest(value: Any) -> str:
    """Return the hexadecimal SHA-256 of a JSON value in canonical form: sorted keys, no spaces, UTF-8.

    Raises:
        TypeError: the value contains something that JSON cannot represent.
        ValueError: the value contains NaN or infinity.
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
