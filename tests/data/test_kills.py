"""A few kills of preparing and loading; tests/data/kills.py does hundreds."""

from __future__ import annotations

from pathlib import Path

from kills import kill_loading, kill_preparing, until


def test_preparing(tmp_path: Path) -> None:
    assert sum(map(len, until(kill_preparing(tmp_path, seed=1, files=5), 6))) >= 6


def test_loading(tmp_path: Path) -> None:
    assert sum(map(len, until(kill_loading(tmp_path, seed=1), 5))) >= 5
