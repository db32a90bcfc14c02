"""A round of faults for two commands; tests/faults/faults.py does hundreds."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import rounds


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "embed"])
def test_nothing_is_lost(name: str, tmp_path: Path) -> None:
    found = next(rounds(name, tmp_path, seed=1, most_faults=3))
    assert len(found["faults"]) <= 3
