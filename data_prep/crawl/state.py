"""State of a folder that a crawl fills, for those who read the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PLAN = "crawl.json"
COMPLETE = "complete.json"
BEGUN = "index/settings.json"


def refuse_incomplete(root: Path) -> None:
    """Refuse a folder whose crawl is not complete: a corpus of what happens to be there would be another corpus.

    Raises:
        ValueError: it is not.
    """
    if (root / BEGUN).is_file() and not (root / COMPLETE).is_file():
        raise ValueError(
            f"{root}: its crawl is not complete; run the same `altiplano data crawl` again, which fetches what is "
            "missing"
        )


def counts_of(root: Path) -> dict[str, Any] | None:
    """Return what `complete.json` counts; None: no folder of a crawl."""
    try:
        counts: dict[str, Any] = json.loads((root / COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {name: counts[name] for name in ("planned", "fetched", "left_out", "left_out_by_the_plan")}
