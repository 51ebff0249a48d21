"""Importing libraries that compile functions of theirs which are never called here."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def quick_import() -> Iterator[None]:
    """Import what is imported within this context without compiling it and without the warnings of its import.

    `torch.compile` as a decorator loads inductor, which takes a second of every process's start. megatron-core
    decorates its fused functions with it, DeepSpeed its Muon; nothing here calls any of them, which
    `tests/unit/pretrain/test_startup.py` proves.
    """

    def as_it_is(function: Callable[..., Any] | None = None, **_: Any) -> Any:
        return function if function is not None else as_it_is

    compiler = torch.compile
    torch.compile = as_it_is  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # megatron-core warns of optional libraries that are missing
            yield
    finally:
        torch.compile = compiler
