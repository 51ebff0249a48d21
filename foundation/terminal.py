"""Output to terminals: text that is safe to print, and streams that survive a closed terminal or a full disk."""

from __future__ import annotations

import sys
from typing import Any, TextIO


def visible(text: str) -> str:
    """Return text with control characters replaced, except newlines and tabs, so that it is safe to print."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def outlast_terminal() -> None:
    """Ignore failures to print from now on.

    Otherwise the next line of progress would end a run whose connection broke, and its work since the last checkpoint
    would be lost.
    """
    sys.stdout, sys.stderr = _Outlasting(sys.stdout), _Outlasting(sys.stderr)


class _Outlasting:
    """Stream whose `write` and `flush` raise no OSError."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
