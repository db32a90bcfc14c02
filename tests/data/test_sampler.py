"""Batches within the token budget: every cell once, on one rank, in a constant number of batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cellfm_torch.data.order import BlockOrder
from cellfm_torch.data.sampler import FetchPlan, TokenBudgetSampler, cut
from cellfm_torch.errors import UserError


def even_blocks(cells: int, size: int) -> np.ndarray:
    """Blocks of `size` cells and a shorter last one."""
    return np.append(np.arange(0, cells, size), cells)


def batches(sampler: TokenBudgetSampler) -> list[np.ndarray]:
    """Cells of each batch of the sampler's epoch and rank."""
    plans: list[FetchPlan] = list(sampler)
    return [plan.cells[a:b] for plan in plans for a, b in zip(plan.cuts[:-1], plan.cuts[1:], strict=True)]


@settings(max_examples=300, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=16, max_size=120),
    slack=st.integers(0, 200),
    block=st.integers(1, 9),
    fetch=st.integers(1, 20),
    seed=st.integers(0, 2**32),
    shuffle=st.booleans(),
    world_size=st.integers(1, 4),
    accumulate=st.integers(1, 3),
)
def test_every_cell_once_within_budget_on_one_rank(
    lengths: list[int],
    slack: int,
    block: int,
    fetch: int,
    seed: int,
    shuffle: bool,
    world_size: int,
    accumulate: int,
) -> None:
    """Whatever the division into blocks, fetches, batches and ranks."""
    budget = 2 * max(lengths) + slack
    order = BlockOrder(even_blocks(len(lengths), block), fetch_blocks=fetch, seed=seed, shuffle=shuffle)
    try:
        ranks = [
            TokenBudgetSampler(
                np.array(lengths),
                token_budget=budget,
                order=order,
                rank=rank,
                world_size=world_size,
                accumulate=accumulate,
            )
            for rank in range(world_size)
        ]
    except UserError as refusal:
        # A fetch of a single cell leaves no choice of batches; real ones hold many.
        assert "too few for" in str(refusal) and 2 * world_size * accumulate * order.num_fetches > len(lengths)
        assume(False)
    assert len({len(sampler) for sampler in ranks}) == 1 and len(ranks[0]) % accumulate == 0
    for epoch in range(3):
        made = []
        for sampler in ranks:
            sampler.set_epoch(epoch)
            own = batches(sampler)
            assert len(own) == len(sampler)
            made += own
            assert [plan.epoch for plan in sampler] == [epoch] * len(list(sampler))
        cells = np.concatenate(made)
        np.testing.assert_array_equal(np.sort(cells), np.arange(len(lengths)))
        assert shuffle or np.all(np.diff(cells) == 1)
        assert all(len(some) >= 1 and np.take(lengths, some).sum() <= budget for some in made)


@given(
    lengths=st.lists(st.integers(1, 1000), min_size=1, max_size=50),
    data=st.data(),
)
def test_cut_leaves_no_batch_empty(lengths: list[int], data: st.DataObject) -> None:
    number = data.draw(st.integers(1, len(lengths)))
    cuts = cut(np.array(lengths), number)
    assert cuts[0] == 0 and cuts[-1] == len(lengths) and len(cuts) == number + 1
    assert np.all(np.diff(cuts) >= 1)


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4), data=st.data())
def test_shares_of_pools(sizes: list[int], data: st.DataObject) -> None:
    """Each epoch holds the blocks asked for; over epochs no block of a pool is used a second time more than another."""
    draws = [data.draw(st.integers(1, 70)) for _ in sizes]
    pools = np.concatenate([[0], np.cumsum(sizes)])
    order = BlockOrder(even_blocks(int(pools[-1]), 1), pools=pools, draws=np.array(draws), fetch_blocks=8)
    used = np.zeros(pools[-1], dtype=int)
    for number in range(6):
        epoch = order.epoch(number)
        for pool, draw in enumerate(draws):
            own = (epoch.blocks >= pools[pool]) & (epoch.blocks < pools[pool + 1])
            assert own.sum() == draw
        for block, turn in zip(*np.unique(np.stack([epoch.blocks, epoch.passes]), axis=1), strict=True):
            assert turn == used[block]
            used[block] += 1
        for pool in range(len(sizes)):
            assert np.ptp(used[pools[pool] : pools[pool + 1]]) <= 1


def test_shares_keep_the_number_of_batches() -> None:
    lengths = np.random.default_rng(0).integers(100, 1000, size=5000)
    order = BlockOrder(
        even_blocks(5000, 16), pools=np.array([0, 100, 313]), draws=np.array([250, 50]), fetch_blocks=30, seed=4
    )
    sampler = TokenBudgetSampler(lengths, token_budget=8000, order=order)
    for epoch in range(20):
        sampler.set_epoch(epoch)
        made = batches(sampler)
        assert len(made) == len(sampler) and max(lengths[cells].sum() for cells in made) <= 8000


def test_order_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int, budget: int = 500) -> list[int]:
        sampler = TokenBudgetSampler(
            np.full(200, 10), token_budget=budget, order=BlockOrder(even_blocks(200, 4), fetch_blocks=10, seed=seed)
        )
        sampler.set_epoch(epoch)
        return np.concatenate(batches(sampler)).tolist()

    assert order(1, 2) == order(1, 2) == order(1, 2, budget=300)
    assert order(1, 2) != order(1, 3) and order(1, 2) != order(2, 2)


def test_fetches_are_mixtures_of_blocks() -> None:
    """A fetch holds whole blocks from all over the data, and its cells come in an order of their own."""
    order = BlockOrder(even_blocks(64_000, 64), fetch_blocks=100)
    epoch = order.epoch(0)
    assert order.num_fetches == 10
    for fetch in range(10):
        cells, passes = order.cells(epoch, fetch)
        assert len(cells) == 6400 and not passes.any()
        blocks, sizes = np.unique(cells // 64, return_counts=True)
        assert np.all(sizes == 64)
        # Runs of 100 neighbouring blocks would have a standard deviation of 29; evenly drawn ones have 289 +- 15.
        assert np.std(blocks) > 200
        assert np.mean(np.diff(cells) == 1) < 0.01


def test_batches_are_well_filled() -> None:
    """A window is the budget less the longest cell, here 95 % of it; the rest is rounding to whole windows."""
    lengths = np.random.default_rng(0).integers(500, 1500, size=2000)
    sampler = TokenBudgetSampler(lengths, token_budget=30_000)
    filled = np.array([lengths[cells].sum() for cells in batches(sampler)])
    assert filled.mean() > 0.9 * 30_000 and filled.max() <= 30_000


def test_start_is_honoured_once() -> None:
    order = BlockOrder(even_blocks(50, 3), fetch_blocks=5)
    sampler = TokenBudgetSampler(np.full(50, 10), token_budget=50, order=order)
    everything = [cells.tolist() for cells in batches(sampler)]
    for start in range(len(everything)):
        sampler.start = start
        assert [cells.tolist() for cells in batches(sampler)] == everything[start:]
    assert [cells.tolist() for cells in batches(sampler)] == everything
    sampler.start = 4
    sampler.set_epoch(0)  # the same epoch: still to be resumed
    assert sampler.start == 4
    sampler.set_epoch(1)
    assert len(batches(sampler)) == len(sampler)


@pytest.mark.parametrize("cells", [2, 3, 16, 17, 18, 19, 40])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("longest", [1, 1000])
def test_smallest_budget_on_several_ranks(cells: int, world_size: int, longest: int) -> None:
    """Two cells to a batch, and as many cells as do not divide among the ranks."""
    if cells < world_size:
        return
    samplers = [
        TokenBudgetSampler(np.full(cells, longest), token_budget=2 * longest, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    made = [batch for sampler in samplers for batch in batches(sampler)]
    assert len({len(sampler) for sampler in samplers}) == 1 and max(map(len, made)) <= 2
    np.testing.assert_array_equal(np.sort(np.concatenate(made)), np.arange(cells))


def test_refusals() -> None:
    with pytest.raises(
        UserError, match=r"data.token_budget=19 is less than twice the longest cell \(10 genes\): .* 20$"
    ):
        TokenBudgetSampler(np.array([3, 10]), token_budget=19)
    for cells in (1, 3):
        with pytest.raises(UserError, match=f"{cells} cells are too few for 4 devices"):
            TokenBudgetSampler(np.full(cells, 10), token_budget=20, world_size=4)
    with pytest.raises(UserError, match="2 cells are too few for 4 devices"):
        TokenBudgetSampler(np.array([3, 10]), token_budget=20, world_size=4)
