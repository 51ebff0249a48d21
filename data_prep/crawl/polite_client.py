"""Requests to a web server that many people use: few at a time, repeated later and later, and when it asks for it.

A failure that may pass is repeated after a pause that doubles up to `LONGEST_PAUSE_SECONDS`, or as long as the server
asks (Retry-After: RFC 9110, section 10.2.3). While a server has too much to do, all connections of this process wait.
"""

from __future__ import annotations

import random
import threading
import time
import urllib.request
from collections import Counter
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from foundation.version import VERSION

ATTEMPTS = 10
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 120.0
LONGEST_ASKED_SECONDS = 900.0
"""Longest pause that a server may ask for before the run ends, with its finished work kept."""
_TIMEOUT_SECONDS = 120.0
_MAY_PASS = (408, 429, 500, 502, 503, 504)
_OVERLOADED = (429, 503)
_REFUSED = (401, 403)
_READ_OF_FAILURES = 1000


class CrawlError(ValueError):
    """A server cannot be reached, refuses, or cannot do what is needed."""


class NotThereError(CrawlError):
    """The server does not have a file, or not the asked range of it; `told` is the beginning of its answer."""

    def __init__(self, message: str, told: bytes = b"") -> None:
        super().__init__(message)
        self.told = told


class _PassingError(Exception):
    """A failure that may pass.

    Args:
        what: kind of failure.
        asked_seconds: pause that the server asks for.
        is_overload: the server has too much to do, so that other connections wait too.
    """

    def __init__(self, what: str, detail: str, asked_seconds: float = 0.0, is_overload: bool = False) -> None:
        super().__init__(detail)
        self.what, self.asked_seconds, self.is_overload = what, asked_seconds, is_overload


class PoliteClient:
    """Client for some connections at a time.

    Attributes:
        repeated: number of repeated requests, by the kind of failure.
    """

    def __init__(self, connections: int) -> None:
        try:
            import urllib3
        except ImportError:
            raise CrawlError("a crawl needs urllib3: pip install 'altiplano[storage]'") from None
        options: dict[str, Any] = {
            "maxsize": connections,
            "timeout": _TIMEOUT_SECONDS,
            # repeated here, where pauses are shared and counted
            "retries": urllib3.Retry(
                connect=0, read=0, status=0, other=0, redirect=5, respect_retry_after_header=False
            ),
            "headers": {"User-Agent": f"altiplano/{VERSION}", "Accept-Encoding": "identity"},
        }
        proxies = urllib.request.getproxies()
        self._direct = urllib3.PoolManager(**options)
        self._by_proxy: dict[str, Any] = {
            scheme: urllib3.ProxyManager(proxies[scheme], **options)
            for scheme in ("http", "https")
            if scheme in proxies
        }
        self._errors = urllib3.exceptions.HTTPError
        self._lock = threading.Lock()
        self._not_before = 0.0
        self.repeated: Counter[str] = Counter()

    def get(self, address: str) -> bytes:
        """Return a whole answer.

        Raises:
            NotThereError, CrawlError: see above.
        """
        return self._repeated(address, lambda: self._get(address, None)[0])

    def get_range(self, address: str, start: int, stop: int) -> tuple[bytes, int, str]:
        """Return bytes [start, stop) of a file, fewer where it ends; and its size and entity tag.

        Raises:
            NotThereError: there is no such file, or it ends before `start`.
            CrawlError: see above; or the server does not know ranges.
        """
        return self._repeated(address, lambda: self._get(address, (start, stop)))

    def _get(self, address: str, wanted: tuple[int, int] | None) -> tuple[bytes, int, str]:
        headers = dict(self._direct.headers)
        if wanted is not None:
            headers["Range"] = f"bytes={wanted[0]}-{wanted[1] - 1}"
        try:
            answer = self._pool(address).request("GET", address, headers=headers, preload_content=False)
        except self._errors as error:
            raise _PassingError(type(error).__name__, _first_line(error)) from error
        try:
            size = self._expected(address, answer, wanted)
            content: bytes = answer.read()
        except self._errors as error:
            answer.close()
            raise _PassingError(type(error).__name__, _first_line(error)) from error
        except (CrawlError, _PassingError):
            answer.close()  # its body may be a gigabyte
            raise
        answer.release_conn()
        asked = size if wanted is None else min(wanted[1], size) - wanted[0]
        if asked >= 0 and len(content) != asked:
            raise _PassingError("short answer", f"{len(content):,} bytes instead of {asked:,}")
        return content, size, answer.headers.get("ETag", "")

    def _expected(self, address: str, answer: Any, wanted: tuple[int, int] | None) -> int:
        """Return the size of the file, -1 if the server does not say, or raise what the status means."""
        status = answer.status
        if status == 206 and wanted is not None:
            told = answer.headers.get("Content-Range", "")
            try:
                unit, _, rest = told.partition(" ")
                span, _, total = rest.partition("/")
                start, last = map(int, span.split("-"))
                size = int(total)
            except ValueError:
                raise _PassingError("wrong range", f"Content-Range is {told[:60]!r}") from None
            if unit != "bytes" or start != wanted[0] or last + 1 != min(wanted[1], size):
                raise _PassingError("wrong range", f"Content-Range is {told[:60]!r}, asked for {wanted}")
            return size
        if status == 200:
            if wanted is not None:
                raise CrawlError(
                    f"{address}: the server answers a request for a range with the whole file; name another "
                    "data_address, one that serves ranges (HTTP status 206)"
                )
            length = answer.headers.get("Content-Length", "")
            return int(length) if length.isdigit() else -1
        if status in (404, 410, 416):
            what = "no such range" if status == 416 else "no such file"
            raise NotThereError(f"{address}: {what} (status {status})", answer.read(_READ_OF_FAILURES))
        if status in _REFUSED:
            raise CrawlError(
                f"{address}: refused (status {status}); the server may have blocked this machine for too many "
                "requests: wait, lower connections, and run again: finished work is kept"
            )
        if status in _MAY_PASS:
            told = f"status {status}"
            raise _PassingError(told, told, _asked_seconds(answer.headers), is_overload=status in _OVERLOADED)
        raise CrawlError(f"{address}: unexpected answer (status {status})")

    def _pool(self, address: str) -> Any:
        scheme, _, rest = address.partition("://")
        host = rest.partition("/")[0].rpartition("@")[2]
        is_direct = scheme not in self._by_proxy or urllib.request.proxy_bypass(host)
        return self._direct if is_direct else self._by_proxy[scheme]

    def _repeated(self, address: str, request: Any) -> Any:
        pause = FIRST_PAUSE_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            _sleep_until(self._not_before)
            try:
                return request()
            except _PassingError as error:
                if error.asked_seconds > LONGEST_ASKED_SECONDS:
                    raise CrawlError(
                        f"{address}: the server asks to come back in {error.asked_seconds:,.0f} seconds; run again "
                        "then: finished work is kept"
                    ) from error
                if attempt == ATTEMPTS:
                    raise CrawlError(
                        f"{address}: cannot be read, {ATTEMPTS} times in a row: {error}; run again later: finished "
                        "work is kept"
                    ) from error
                until = time.monotonic() + max(pause * random.uniform(1, 1.25), error.asked_seconds)
                with self._lock:
                    self.repeated[error.what] += 1
                    if error.is_overload:
                        self._not_before = max(self._not_before, until)
                _sleep_until(until)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        raise AssertionError


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _asked_seconds(headers: Any) -> float:
    """Return the pause that a Retry-After asks for: a number of seconds or a date; 0 for none."""
    value = (headers.get("Retry-After") or "").strip()
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
