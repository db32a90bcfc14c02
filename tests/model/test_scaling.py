"""The arithmetic of training on a cluster."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cellfm_torch import CellFMConfig
from cellfm_torch.model import scaling
from cellfm_torch.model.cost import parameter_counts, training_state

BIG = CellFMConfig.preset("800m")
NUMBER = sum(parameter_counts(BIG).values())


def planned(strategy: str, gpus: int, **changes: object) -> scaling.Plan:
    options = {
        "cells": 1e8, "tokens": 16384, "activations": 5e9, "machine": scaling.MACHINES["h100"], "utilisation": 0.4,
        "genes": 817, **changes,
    }  # fmt: skip
    return scaling.plan(BIG, strategy, gpus, **options)


def test_a_ring_is_what_its_steps_add_up_to() -> None:
    """Each of N - 1 steps passes on a share of 1 / N."""
    steps = sum(1e9 / 4 / 50e9 + 1e-5 for _ in range(3))
    assert scaling.ring(1e9, 4, 50e9, 1e-5) == pytest.approx(steps)
    assert scaling.ring(1e9, 1, 50e9, 1e-5) == 0


@pytest.mark.parametrize("strategy", scaling.STRATEGIES)
def test_one_gpu_sends_nothing_and_waits_for_nobody(strategy: str) -> None:
    alone = planned(strategy, 1)
    assert alone.traffic == alone.sent == alone.exposed == 0 and alone.efficiency == 1
    assert planned(strategy, 64).cells_per_second <= 64 * alone.cells_per_second


def test_bytes_sent() -> None:
    """On one machine of eight: 2 * 7/8 of float32 gradients, or three times 7/8 of bfloat16 weights."""
    assert planned("ddp", 8).sent == pytest.approx(2 * 7 / 8 * 4 * NUMBER)
    assert planned("fsdp", 8).sent == planned("hybrid", 8).sent == pytest.approx(3 * 7 / 8 * 2 * NUMBER)
    # Over machines hybrid adds up gradients (2) where fsdp gathers twice and scatters (3).
    assert planned("ddp", 64).sent > planned("fsdp", 64).sent > planned("hybrid", 64).sent


def test_memory() -> None:
    state = training_state(BIG).total
    by_ranks = [planned("fsdp", gpus).memory for gpus in (1, 8, 64, 1024)]
    assert by_ranks == sorted(by_ranks, reverse=True)
    assert by_ranks[1] - by_ranks[2] == pytest.approx(state / 8 - state / 64)
    assert planned("hybrid", 1024).memory == pytest.approx(by_ranks[1])  # sharded within a machine only
    assert planned("ddp", 1024).memory > state + 5e9
    assert planned("fsdp", 8).fits and not planned("fsdp", 8, activations=80e9).fits


def test_traffic_that_compute_cannot_hide_is_waited_for() -> None:
    slow = dataclasses.replace(scaling.MACHINES["h100"], outside=1e9)
    for strategy in scaling.STRATEGIES:
        waits = planned(strategy, 64, machine=slow)
        assert waits.exposed > 0 and waits.efficiency < 1
        # More tokens in a step: the same traffic behind more arithmetic.
        assert planned(strategy, 64, machine=slow, tokens=1 << 20).efficiency > waits.efficiency


@pytest.mark.parametrize(("write", "failures"), [(2, 3600 * 50), (30, 3600), (120, 1800)])
def test_the_interval_wastes_least(write: float, failures: float) -> None:
    """Against Daly's whole formula for failures at random moments, minimised by trying."""
    tried = np.geomspace(write, failures, 20_000)
    wall = failures * (np.exp((tried + write) / failures) - 1) / tried  # of a second of work, restarts aside
    best = tried[np.argmin(wall)]
    # Daly states his approximation as within 0.2 % of wasted time for write < failures / 2; of the interval it is more.
    assert scaling.interval(write, failures) == pytest.approx(best, rel=0.02)
    assert scaling.interval(1e6, 10) == 10


def test_failures_and_checkpoints_cost_more_on_more_gpus() -> None:
    few, many = planned("fsdp", 8), planned("fsdp", 1024)
    assert many.wasted > few.wasted and many.interval < few.interval
    assert few.checkpoint == 12 * NUMBER
    ideal = 1e8 / many.cells_per_second
    assert many.seconds == pytest.approx(ideal / (1 - many.wasted))
    assert many.price == pytest.approx(many.seconds / 3600 * 1024 * 3.0)
