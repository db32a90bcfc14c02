"""Uninitialised memory is poisoned in all tests of the operators."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def nan_in_fresh_memory() -> Iterator[None]:
    """Fill torch.empty and new_empty with NaN, so that reading what nobody wrote is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.zeros(1).new_empty(3).isnan().all() and torch.empty(3, dtype=torch.float64).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
