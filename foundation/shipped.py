"""The configurations and templates that come with the program."""

from __future__ import annotations

from pathlib import Path


def shipped_configs() -> Path:
    """Folder of the shipped configurations: `configs` of the checkout, or the one beside the installed packages."""
    root = Path(__file__).parents[1]
    checkout = root / "configs"
    return checkout if (checkout / "train" / "demo.yaml").is_file() else root / "altiplano_configs"
