"""What runs the distributed tests says when a process is gone, and does not wait for it."""

from __future__ import annotations

import os

import pytest

from tests.distributed.processes import run_processes


def test_a_process_that_dies_without_a_word_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"rank [01] of 2 ended with 7 and no result"):
        run_processes(2, os._exit, 7)
