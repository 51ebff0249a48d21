"""The figures of docs/ladder.md come from the rungs beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.ladder.interval import forecast, points_of
from tools.ladder.rungs import read_points

DEMO = Path(__file__).parents[4] / "docs" / "ladder_demo"


def test_the_prediction_follows_from_the_rungs() -> None:
    written = json.loads((DEMO / "prediction.json").read_text(encoding="utf-8"))
    points = points_of(read_points(DEMO / "points.csv"))
    assert len(points) == 16 and points.flops[-1] / points.flops[0] > 30
    found = forecast(points, written["parameters"], written["tokens"], written["flops"])
    for name in ("loss", "low", "high"):
        assert getattr(found, name) == pytest.approx(written[name], rel=1e-3), name
    page = (DEMO.parent / "ladder.md").read_text(encoding="utf-8")
    assert f"| {found.loss:.3f} |" in page and f"{found.low:.3f} to {found.high:.3f}" in page
