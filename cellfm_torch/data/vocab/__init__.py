"""The published gene lists, in checkpoint order: line i (0-based) is row i + 1 of CellFM's gene embedding."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


@cache
def bundled_symbols(num_genes: int) -> tuple[str, ...] | None:
    """Return the bundled gene list of this length (24,078 for 800M, 27,855 for 80M), or None."""
    path = FOLDER / f"genes_{num_genes}.txt"
    return tuple(path.read_text(encoding="utf-8").split()) if path.is_file() else None
