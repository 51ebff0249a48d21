"""Files and folders that are either whole and on the disk, or not there; and digests of what they hold."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PARTIAL_SUFFIX = ".partial"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NoRoomError(OSError):
    """The disk, a quota or the limit on the size of a file has no room; names the file and says what to do."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """While `path`, or its temporary name, is written.

    Raises:
        NoRoomError: for the system's error, which names no file, when there is no room.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM or isinstance(error, NoRoomError):
            raise
        raise NoRoomError(error.errno, _no_room(error.errno, path)) from error


def _no_room(number: int, path: Path) -> str:
    again = "run the same command again: what is done is kept"
    path = path.with_name(path.name.removesuffix(PARTIAL_SUFFIX))
    names = (path.with_name(path.name + PARTIAL_SUFFIX), path)
    written = next((name.stat().st_size for name in names if name.is_file()), 0)
    told = f"{os.strerror(number)}: {path}, of which {written:,} bytes were written"
    if number == errno.EFBIG:
        return f"{told}; let this process write larger files (`ulimit -f`) and {again}"
    disk = shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.is_dir()))
    told += f"; {disk.free:,} of {disk.total:,} bytes are free there"
    if number == errno.EDQUOT:
        return f"{told}, but not to this user: make room in your quota and {again}"
    return f"{told}: make room and {again}"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block ends without an error.

    The content is synced before the name changes and the folder after it, so that after a crash the old file, the new
    file or none is there, never a part. The temporary name is `<name>.partial`, and what a killed process left behind
    is overwritten by the next one; while another process writes to it, the name is one of this process's own. Of two
    that write at the same time, the file is that of the last to end, whole.

    Raises:
        FileNotFoundError: the block ended without having written to the temporary name.
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
            os.replace(temporary, path)
            sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(held)


def _private_name(path: Path) -> tuple[Path, int]:
    """An empty file beside `path` that no other process writes to, and what holds it as long as it is open."""
    names = [path.name, *(f"{path.name}.{socket.gethostname()}-{os.getpid()}-{number}" for number in range(1000))]
    for name in names:
        temporary = path.with_name(name + PARTIAL_SUFFIX)
        held = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
        if _holds(held, temporary, is_own=name != path.name):
            os.ftruncate(held, 0)
            os.utime(temporary, ns=(0, 0))  # a time that says that nobody has written yet
            return temporary, held
        os.close(held)
    raise AssertionError("a process writes one file a thousand times at once")


def _holds(held: int, temporary: Path, is_own: bool) -> bool:
    """Whether this process has the temporary file to itself."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return is_own  # no locks here: a name that no other process has
    try:
        return os.path.samestat(os.fstat(held), os.stat(temporary))  # and it was not renamed before it was locked
    except FileNotFoundError:
        return False


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty temporary folder beside `path`; it becomes `path`, files synced, when the block ends without an error.

    Raises:
        FileExistsError: `path` is there already; a folder cannot be replaced in one step.
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
    """What this process writes from now on is for others to read at most, however generous the shell's umask is: who
    can change a checkpoint or token file changes what the next start does."""
    os.umask(os.umask(0o022) | 0o022)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file for people and programs, whole; keys keep their order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a `.npy` file, whole."""
    content = io.BytesIO()  # into a file of the system, numpy writes by itself, and does not say why it fails
    np.save(content, array)
    with whole_file(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        sha256 = hashlib.sha256()
        while block := file.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()


def digest(value: Any) -> str:
    """Hexadecimal SHA-256 of a JSON value in canonical form: sorted keys, no spaces, UTF-8.

    Raises:
        TypeError: the value holds something that JSON cannot.
        ValueError: the value holds NaN or infinity.
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
