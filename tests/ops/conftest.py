"""Uninitialised memory is poisoned in all tests of the operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def nan_in_fresh_memory() -> Iterator[None]:
    """Fill torch.empty and new_empty with NaN, so that reading what nobody wrote is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.zeros(1).new_empty(3).isnan().all() and torch.empty(3, dtype=torch.float64).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def peak_bytes() -> Callable[[Callable[[], object]], int]:
    """Measure the most memory that a call has allocated at a time, counted allocation by allocation (CPU)."""

    def measure(call: Callable[[], object]) -> int:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            kept = call()
        del kept
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        assert events
        now = most = 0
        for event in sorted(events, key=lambda e: e.start_ns()):
            now += event.nbytes()
            most = max(most, now)
        return most

    return measure
