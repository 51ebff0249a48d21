"""Terminals: text that is safe to print, and output that outlasts a closed terminal or a full disk under the log."""

from __future__ import annotations

import sys
from typing import Any, TextIO


def visible(text: str) -> str:
    """The text with control characters replaced, because it ends up on terminals; newlines and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def outlast_terminal() -> None:
    """From now on, what cannot be printed is lost, and the process goes on.

    Else the next line of progress would end a run whose connection broke, with all that it has done since its last
    checkpoint.
    """
    sys.stdout, sys.stderr = _Outlasting(sys.stdout), _Outlasting(sys.stderr)


class _Outlasting:
    """A stream whose `write` and `flush` never fail with the system's error."""

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
