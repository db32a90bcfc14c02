"""A few kills of preparing and loading; tests/data/kills.py does hundreds."""

from __future__ import annotations

from pathlib import Path

from kills import kill_loading, kill_preparing


def test_preparing(tmp_path: Path) -> None:
    assert kill_preparing(tmp_path, 6, seed=1, files=5)["kills"] >= 6


def test_loading(tmp_path: Path) -> None:
    assert kill_loading(tmp_path, 5, seed=1)["kills"] >= 5
