"""Version of this release, and a digest of the code that runs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from foundation.atomic_files import digest, sha256_file

VERSION = "0.2.0"
"""Version of the release, see `CHANGELOG.md`; `setup.py` reads it here."""

PACKAGES = ("foundation", "data_prep", "pretrain", "tools")


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return the SHA-256 of the names and contents of all modules: it changes with any edit, also within a version."""
    root = Path(__file__).parents[1]
    files = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    return digest({str(path.relative_to(root)): sha256_file(path) for path in files})


def program() -> dict[str, str]:
    """Return what checkpoints, manifests, exports and reports record about the code that wrote them."""
    return {"version": VERSION, "code_digest": code_digest()}


def described(recorded: Mapping[str, str] | None) -> str:
    """For people: version and code digest that a file records; files from before 0.2.0 record none."""
    if recorded is None:
        return "not recorded (before 0.2.0)"
    return f"{recorded['version']} (code {recorded['code_digest'][:12]})"
