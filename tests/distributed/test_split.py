"""Retention of cells spread over processes, against one process that has all of their tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from launch import launch
from ranks import split_cells

from cellfm_torch import RetentionState
from cellfm_torch.ops.split import merge_over_processes


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=["float32", "float64"])
def test_forward_and_backward(processes: int, dtype: torch.dtype, bar: float) -> None:
    """Sums in another order: so much of the largest number."""
    tokens = 0
    for rank in launch(split_cells, processes, dtype):
        tokens += len(rank["ours"][0])
        for name, ours, theirs in zip(("out", "dq", "dk", "dv"), rank["ours"], rank["theirs"], strict=True):
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            error = np.abs(ours - theirs).max(initial=0) / np.abs(theirs).max(initial=1e-30)
            assert error < bar, f"{name}: {error:.1e}"
            assert np.abs(theirs).max(initial=0) > 1, name
    assert tokens > 50


def test_an_order_is_refused() -> None:
    state = RetentionState.empty(1, 2, 4, decay=torch.tensor([0.5, 0.9]))
    with pytest.raises(ValueError, match="have an order"):
        merge_over_processes(state)
