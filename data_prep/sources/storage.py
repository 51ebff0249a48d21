"""Input files wherever they are: on this machine's file systems, in an object store, on a web server, or on the Hugging
Face hub.

Addresses are `s3://bucket/key`, `gs://bucket/key`, `https://host/path` and `hf://datasets/owner/name` (see `hub`).
Credentials come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`,
`HF_TOKEN`, …), never from an address, which ends up in records and messages.

An object is read in ranges, and each answer must have the entity tag that the object had when it was opened: an object
that changes meanwhile is an error, not a mixture. A failed or truncated request is repeated.
"""

from __future__ import annotations

import io
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from data_prep.sources import hub
from data_prep.sources.failures import DeniedError, NotThereError, PassingError

SCHEMES = ("s3", "gs", "https", "http", hub.SCHEME)
_SMALLEST_RANGE, _LARGEST_RANGE = 1 << 16, 1 << 23
"""Bytes of a request after a jump, and of a long sequential read: requests take 10 to 100 ms each before the first byte
arrives, so they must be large; a footer or a header should not cost as much."""
ATTEMPTS = 8
"""Number of attempts of a request; with the pauses between them, half a minute of trouble is outlasted."""
FIRST_PAUSE_SECONDS = 0.25
"""Pause after the first failed attempt; each further one is twice as long."""

retries: Counter[str] = Counter()
"""Number of repeated requests of this process, by the kind of failure."""


def scheme_of(path: str) -> str | None:
    """Return the scheme of an address; None: a path of the file system."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", path)
    return found[1].lower() if found else None


def checked_address(path: str) -> str:
    """Return a path, or an address that can be read.

    Raises:
        ValueError: the scheme is not supported, or the address contains credentials.
    """
    scheme = scheme_of(path)
    if scheme is None:
        return path
    shown = re.sub(r"//[^/@]*@", "//…@", path).partition("?")[0]
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(f"{shown!r}: {scheme}:// is not supported, only {known} and paths of the file system")
    parts = urlsplit(path)
    if "@" in parts.netloc or parts.query:
        raise ValueError(
            f"{shown!r}: an address must not contain credentials or a query, since it is recorded; credentials are "
            "taken from the environment"
        )
    if scheme == hub.SCHEME:
        hub.HubAddress.parse(path)
    return path


class StorageError(OSError):
    """A store cannot be reached, refuses, or has changed an object: the object is neither damaged nor empty."""


class NoObjectError(StorageError, FileNotFoundError):
    """There is no object at an address."""


@dataclass(frozen=True)
class RemoteObject:
    """Object at an address.

    Attributes:
        tag: entity tag, or the time of the last change where the server gives no tag.
    """

    path: str
    size: int
    tag: str


def remote_object(path: str) -> RemoteObject:
    """Ask for size and entity tag of an object.

    Raises:
        NoObjectError: there is none.
        StorageError: the store cannot be reached, or refuses.
    """
    if scheme_of(path) == hub.SCHEME:
        return RemoteObject(*_repeated(path, lambda: hub.file(path)))
    import obstore

    store, key = _located(path)
    return _described(path, _repeated(path, lambda: _of_store(path, lambda: obstore.head(store, key))))


def pinned(path: str) -> str:
    """Return an address whose content cannot change, if its store has such addresses, or the address itself.

    Raises:
        NoObjectError: there is none.
        StorageError: the store cannot be reached, or refuses.
    """
    return str(_repeated(path, lambda: hub.pinned(path))) if scheme_of(path) == hub.SCHEME else path


def without_revision(path: str) -> str:
    """Return an address as it is whatever its revision, see `pinned`."""
    return str(replace(hub.HubAddress.parse(path), revision=None)) if scheme_of(path) == hub.SCHEME else path


def list_objects(folder: str) -> Iterator[RemoteObject]:
    """Yield the objects whose addresses begin with `folder`, at any depth.

    Raises:
        StorageError: the store cannot be reached, or refuses; web servers cannot list.
    """
    if scheme_of(folder) == hub.SCHEME:
        yield from (RemoteObject(*entry) for entry in _repeated(folder, lambda: list(hub.files(folder))))
        return
    import obstore

    if scheme_of(folder) in ("http", "https"):
        raise StorageError(f"{folder}: a web server cannot list files; give the address of each file")
    store, prefix = _located(folder)
    root = folder[: len(folder) - len(prefix)]

    def listed() -> list[Any]:
        # a prefix of whole path segments; the pattern is matched by the caller
        whole = prefix if prefix.endswith("/") or not prefix else prefix.rpartition("/")[0]
        return [entry for page in obstore.list(store, whole or None) for entry in page]

    for entry in sorted(_repeated(folder, lambda: _of_store(folder, listed)), key=lambda entry: entry["path"]):
        if entry["path"].startswith(prefix):
            yield _described(f"{root}{entry['path']}", entry)


def open_input(path: str, buffering: int = -1) -> Any:
    """Open a file or an object for reading bytes at any position.

    Args:
        buffering: of files, as in `open`; objects are always buffered.

    Raises:
        OSError: it cannot be opened.
    """
    if scheme_of(path) is None:
        return open(path, "rb", buffering=buffering)
    return _RemoteFile(path)


def size_of(path: str) -> int:
    """Return the size in bytes of a file or an object."""
    return os.path.getsize(path) if scheme_of(path) is None else remote_object(path).size


def exists(path: str) -> bool:
    """Return whether there is a file or an object."""
    if scheme_of(path) is None:
        return os.path.exists(path)
    try:
        remote_object(path)
    except NoObjectError:
        return False
    return True


class _RemoteFile(io.RawIOBase):
    """Object as a file: reads ranges that grow while reading is sequential."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._object = remote_object(path)
        self._is_on_hub = scheme_of(path) == hub.SCHEME
        store: tuple[Any, str] = (None, "") if self._is_on_hub else _located(path)
        self._store, self._key = store
        self._position = 0
        self._block, self._block_start = b"", 0
        self._range_bytes = _SMALLEST_RANGE

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._object.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        if not target.nbytes or self._position >= self._object.size:
            return 0
        inside = self._position - self._block_start
        if not 0 <= inside < len(self._block):
            self._fetch(target.nbytes)
            inside = 0
        taken = self._block[inside : inside + target.nbytes]
        target[: len(taken)] = taken
        self._position += len(taken)
        return len(taken)

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, fewer at the end only."""
        wanted = max(0, self._object.size - self._position)
        content = bytearray(wanted if size < 0 else min(size, wanted))
        done = 0
        while done < len(content):
            done += self.readinto(memoryview(content)[done:])
        return bytes(content)

    def _fetch(self, wanted: int) -> None:
        is_next = self._position == self._block_start + len(self._block) and self._position
        self._range_bytes = min(2 * self._range_bytes, _LARGEST_RANGE) if is_next else _SMALLEST_RANGE
        stop = min(self._position + max(self._range_bytes, wanted), self._object.size)
        self._block = self._range(self._position, stop)
        self._block_start = self._position

    def _range(self, start: int, stop: int) -> bytes:
        def get() -> bytes:
            content = hub.read_range(self.name, start, stop) if self._is_on_hub else self._of_store(start, stop)
            if len(content) != stop - start:
                raise PassingError("ShortAnswer", f"{len(content):,} bytes instead of {stop - start:,}")
            return content

        content: bytes = _repeated(self.name, get)
        return content

    def _of_store(self, start: int, stop: int) -> bytes:
        import obstore

        def get() -> bytes:
            result = obstore.get(self._store, self._key, options={"range": (start, stop)})
            # not If-Match, which servers refuse for a weak tag
            if _described(self.name, result.meta).tag != self._object.tag:
                raise StorageError(f"{self.name}: changed while it was read")
            return bytes(result.bytes())

        content: bytes = _of_store(self.name, get)
        return content


def _described(path: str, entry: Any) -> RemoteObject:
    return RemoteObject(path, int(entry["size"]), entry.get("e_tag") or f"changed {entry['last_modified'].isoformat()}")


def _located(path: str) -> tuple[Any, str]:
    """Return the store and the key of an address."""
    scheme, _, rest = checked_address(path).partition("://")
    host, _, key = rest.partition("/")
    return _store(f"{scheme.lower()}://{host}"), key


@lru_cache(maxsize=64)
def _store(root: str) -> Any:
    try:
        from obstore.store import from_url
    except ImportError:
        raise StorageError(f"{root}: reading addresses needs obstore: pip install 'altiplano[storage]'") from None
    # without encryption only where somebody has written http://
    is_plain = root.startswith("http://") or os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    options: Any = {"timeout": "120s", "allow_http": is_plain}
    # repeated here, where it is counted, for bodies that end early too
    return from_url(root, client_options=options, retry_config={"max_retries": 0})


def _of_store(path: str, request: Any) -> Any:
    """Return the result of a request to an object store; its failures as those of `failures`."""
    from obstore import exceptions

    try:
        return request()
    except (exceptions.NotFoundError, FileNotFoundError) as error:
        if isinstance(error, StorageError):
            raise
        raise NotThereError(path) from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        raise DeniedError(
            f"{path}: access denied; credentials are taken from the environment (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_SKIP_SIGNATURE=true for public data, GOOGLE_APPLICATION_CREDENTIALS)"
        ) from None
    except exceptions.BaseError as error:
        why = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise PassingError(type(error).__name__, why) from error


def _repeated(path: str, request: Any) -> Any:
    """Return the result of a request, repeated while the failure may pass.

    Raises:
        NoObjectError: there is no such object.
        StorageError: the last failure.
    """
    pause = FIRST_PAUSE_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return request()
        except NotThereError:
            raise NoObjectError(f"{path}: no such object") from None
        except DeniedError as error:
            raise StorageError(str(error)) from None
        except PassingError as error:
            if attempt == ATTEMPTS:
                raise StorageError(f"{path}: cannot be read, {ATTEMPTS} times in a row: {error}") from error
            retries[error.what] += 1
            time.sleep(pause)
            pause *= 2
    raise AssertionError
