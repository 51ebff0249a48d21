"""Failures of requests to a store, before it is decided whether they are repeated."""

from __future__ import annotations


class NotThereError(Exception):
    """There is no such object."""


class DeniedError(Exception):
    """The store refuses; the message tells the remedy."""


class PassingError(Exception):
    """A failure that may pass.

    Attributes:
        what: its kind, under which it is counted.
    """

    def __init__(self, what: str, detail: str) -> None:
        super().__init__(detail)
        self.what = what
