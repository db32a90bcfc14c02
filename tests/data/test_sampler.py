"""Batches within the token budget: every cell once, on one rank, in a constant number of batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellfm_torch.data.sampler import TokenBudgetSampler
from cellfm_torch.errors import UserError


@settings(max_examples=300)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=80),
    slack=st.integers(0, 200),
    seed=st.integers(0, 2**32),
    shuffle=st.booleans(),
)
def test_every_cell_once_within_budget(lengths: list[int], slack: int, seed: int, shuffle: bool) -> None:
    budget = 2 * max(lengths) + slack
    sampler = TokenBudgetSampler(np.array(lengths), token_budget=budget, seed=seed, shuffle=shuffle)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        plans = list(sampler)
        assert len(plans) == len(sampler)
        assert [(plan.epoch, plan.index) for plan in plans] == [(epoch, i) for i in range(len(sampler))]
        cells = np.concatenate([plan.cells for plan in plans])
        np.testing.assert_array_equal(np.sort(cells), np.arange(len(lengths)))
        assert shuffle or np.all(np.diff(cells) == 1)
        assert all(len(plan.cells) >= 1 and np.take(lengths, plan.cells).sum() <= budget for plan in plans)


@given(st.lists(st.integers(1, 20), min_size=16, max_size=60), st.integers(2, 4), st.booleans())
def test_ranks_are_disjoint_and_complete(lengths: list[int], world_size: int, shuffle: bool) -> None:
    ranks = [
        TokenBudgetSampler(np.array(lengths), token_budget=100, shuffle=shuffle, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert len({len(sampler) for sampler in ranks}) == 1
    plans = [list(sampler) for sampler in ranks]
    assert [len(own) for own in plans] == [len(ranks[0])] * world_size
    cells = np.concatenate([plan.cells for own in plans for plan in own])
    np.testing.assert_array_equal(np.sort(cells), np.arange(len(lengths)))


def test_order_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int, budget: int = 500) -> list[int]:
        sampler = TokenBudgetSampler(np.full(200, 10), token_budget=budget, seed=seed)
        sampler.set_epoch(epoch)
        return np.concatenate([plan.cells for plan in sampler]).tolist()

    assert order(1, 2) == order(1, 2) == order(1, 2, budget=300)
    assert order(1, 2) != order(1, 3) and order(1, 2) != order(2, 2)


def test_batches_are_well_filled() -> None:
    """A window is the budget less the longest cell, here 95 % of it; the rest is rounding to whole windows."""
    lengths = np.random.default_rng(0).integers(500, 1500, size=2000)
    sampler = TokenBudgetSampler(lengths, token_budget=30_000)
    filled = np.array([lengths[plan.cells].sum() for plan in sampler])
    assert filled.mean() > 0.93 * 30_000 and filled.max() <= 30_000


def test_start_is_honoured_once() -> None:
    sampler = TokenBudgetSampler(np.full(50, 10), token_budget=50)
    everything = [plan.index for plan in sampler]
    sampler.start = 4
    assert [plan.index for plan in sampler] == everything[4:]
    assert [plan.index for plan in sampler] == everything
    sampler.start = 4
    sampler.set_epoch(0)  # the same epoch: still to be resumed
    assert sampler.start == 4
    sampler.set_epoch(1)
    assert len(list(sampler)) == len(sampler)


def test_refusals() -> None:
    with pytest.raises(
        UserError, match=r"data.token_budget=19 is less than twice the longest cell \(10 genes\): .* 20$"
    ):
        TokenBudgetSampler(np.array([3, 10]), token_budget=19)
    with pytest.raises(UserError, match="2 cells are too few for 4 devices"):
        TokenBudgetSampler(np.array([3, 10]), token_budget=20, world_size=4)
