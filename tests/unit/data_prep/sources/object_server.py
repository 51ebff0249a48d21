"""A web server of files and a proxy of another server, both with faults on demand."""

from __future__ import annotations

import hashlib
import http.client
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, dict[str, str], bytes]


class ObjectServer:
    """Server of `files`, by path without the leading slash, or of what `forward` answers.

    Attributes:
        fault: called with the number of each request for content, from 0; returns `503`, `reset`, `truncated`, `slow`,
            or None for no fault.
        counts: requests by method, and faults by kind.
    """

    def __init__(self, forward: str | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.forward = forward
        self.fault: Callable[[int], str | None] = lambda number: None
        self.counts: Counter[str] = Counter()
        self.gets = 0
        self.has_weak_tags = False
        self.lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[str]:
        """Yield the address of the running server."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # headers and body are written apart, and would wait for each other

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._send(owner.answer(self), None)

            def do_GET(self) -> None:
                with owner.lock:
                    number, owner.gets = owner.gets, owner.gets + 1
                fault = owner.fault(number)
                if fault:
                    with owner.lock:
                        owner.counts[fault] += 1
                self._send(owner.answer(self), fault)

            def do_POST(self) -> None:
                self.content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._send(owner.answer(self), None)

            def _send(self, answer: Answer, fault: str | None) -> None:
                with owner.lock:
                    owner.counts[self.command] += 1
                status, headers, body = answer if fault != "503" else (503, {}, b"")
                if fault == "slow":
                    time.sleep(0.1)
                if fault == "reset":
                    self.close_connection = True
                    self.connection.close()
                    return
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "HEAD":
                    return
                if fault == "truncated":
                    self.close_connection = True
                    body = body[: len(body) // 2]
                self.wfile.write(body)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> Answer:
        """The faultless answer."""
        if self.forward is not None:
            return self._forwarded(request)
        content = self.files.get(request.path.lstrip("/"))
        if content is None:
            return 404, {}, b""
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if self.has_weak_tags:
            tag = f"W/{tag}"
        if "If-Match" in request.headers and (self.has_weak_tags or request.headers["If-Match"] != tag):
            return 412, {}, b""  # RFC 9110, section 13.1.1: a weak tag never matches
        headers = {"ETag": tag, "Last-Modified": formatdate(0, usegmt=True), "Accept-Ranges": "bytes"}
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if not found:
            return 200, {**headers, "Content-Length": str(len(content))}, content
        start, stop = int(found[1]), min(int(found[2]) + 1, len(content))
        if start >= len(content):
            return 416, {"Content-Range": f"bytes */{len(content)}"}, b""
        return 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}, content[start:stop]

    def _forwarded(self, request: BaseHTTPRequestHandler) -> Answer:
        assert self.forward is not None
        connection = http.client.HTTPConnection(self.forward)
        connection.request(request.command, request.path, headers=dict(request.headers.items()))
        answer = connection.getresponse()
        body = answer.read()
        skipped = ("transfer-encoding", "connection", "date", "server")
        headers = {name.title(): value for name, value in answer.getheaders() if name.lower() not in skipped}
        connection.close()
        return answer.status, headers, body
