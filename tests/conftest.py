"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# No test has a time limit: on a busy machine the same example takes ten times as long.
settings.register_profile("altiplano", deadline=None)
settings.load_profile("altiplano")
