"""Fixtures of the tests of several stages."""

from __future__ import annotations

import pytest

from data_prep import tokenize as stage_module


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units one after another in this process, so that a test does not wait for worker processes to start."""

    def run_units(function, units, workers, title, stage) -> None:  # type: ignore[no-untyped-def]
        for unit in units if workers == 1 else reversed(units):
            if not stage.is_done(unit):
                function(unit)

    monkeypatch.setattr(stage_module, "run_units", run_units)
