"""The order of the cells in an epoch: blocks of neighbours, shuffled, and shuffled again within a fetch of many blocks.

Reading cells one by one from a disk is slow and reading neighbours is fast, so neighbours stay together up to a fetch;
inside it every cell has its own place. A fetch that holds all blocks is a true shuffle. The cells may belong to several
pools (data sets) of which an epoch takes given shares; without shares it takes each cell once.
Shapes: C cells, K blocks, k blocks of an epoch, G fetches of an epoch, P pools.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ORDER_STREAM, FETCH_STREAM, POOL_STREAM = 1, 2, 3
"""First words of the seeds of three orders: blocks, cells in a fetch, pools. Other uses of the user's seed differ."""


@dataclass(frozen=True)
class Epoch:
    """The blocks of one epoch in their order.

    Attributes
    ----------
    number : int
        Of the epoch.
    blocks : (k,) int64
        Their numbers.
    passes : (k,) int64
        How often each block was used before, in this and earlier epochs.
    fetches : (G + 1,) int64
        Fetch g holds ``blocks[fetches[g]:fetches[g + 1]]``.
    """

    number: int
    blocks: NDArray[np.int64]
    passes: NDArray[np.int64]
    fetches: NDArray[np.int64]


class BlockOrder:
    """Deal blocks of cells out to epochs and fetches; everything is a function of seed and epoch.

    Parameters
    ----------
    blocks : (K + 1,) int64
        Block i is the cells ``blocks[i]:blocks[i + 1]``, at least one.
    pools : (P + 1,) int64, optional
        Pool p is the blocks ``pools[p]:pools[p + 1]``; all are one pool by default.
    draws : (P,) int, optional
        Blocks of each pool in an epoch: it goes on through the pool where the epoch before stopped, in a new order
        each time it comes round. All blocks of the pool by default.
    fetch_blocks
        Blocks in a fetch, about; None for all of an epoch.
    seed
        Of the order.
    shuffle
        Otherwise blocks and cells keep their order and each fetch is a run of neighbours.
    """

    def __init__(
        self,
        blocks: NDArray[np.int64],
        *,
        pools: NDArray[np.int64] | None = None,
        draws: NDArray[np.int64] | None = None,
        fetch_blocks: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        self.blocks = np.asarray(blocks, dtype=np.int64)
        self.pools = np.array([0, len(self.blocks) - 1]) if pools is None else np.asarray(pools, dtype=np.int64)
        self.draws = np.diff(self.pools) if draws is None else np.asarray(draws, dtype=np.int64)
        self.seed = seed
        self.shuffle = shuffle
        self.num_fetches = 1 if fetch_blocks is None else max(1, round(int(self.draws.sum()) / fetch_blocks))

    def epoch(self, number: int) -> Epoch:
        """Return the blocks of an epoch."""
        if not self.shuffle:
            blocks, passes = np.arange(len(self.blocks) - 1), np.zeros(len(self.blocks) - 1, dtype=np.int64)
        else:
            dealt = [self._deal(pool, number) for pool in range(len(self.draws))]
            blocks = np.concatenate([part for part, _ in dealt])
            passes = np.concatenate([part for _, part in dealt])
            if len(dealt) > 1:
                order = np.random.default_rng([POOL_STREAM, self.seed, number]).permutation(len(blocks))
                blocks, passes = blocks[order], passes[order]
        return Epoch(number, blocks, passes, np.arange(self.num_fetches + 1) * len(blocks) // self.num_fetches)

    def _deal(self, pool: int, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return what an epoch takes of a pool: blocks, and how often each was used before."""
        start, size, draws = self.pools[pool], int(self.pools[pool + 1] - self.pools[pool]), int(self.draws[pool])
        first, last = number * draws, (number + 1) * draws  # places in the endless line of the pool's passes
        parts = []
        for turn in range(first // size, -(-last // size)):
            order = start + np.random.default_rng([ORDER_STREAM, self.seed, pool, turn]).permutation(size)
            parts.append(order[max(first - turn * size, 0) : last - turn * size])
        passes = np.arange(first, last) // size
        return (np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)), passes

    def cells(self, epoch: Epoch, fetch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the cells of a fetch in their order, and how often each was used before."""
        own = slice(epoch.fetches[fetch], epoch.fetches[fetch + 1])
        blocks, passes = epoch.blocks[own], epoch.passes[own]
        lengths = self.blocks[blocks + 1] - self.blocks[blocks]
        ends = np.cumsum(lengths)
        cells = np.repeat(self.blocks[blocks] - ends + lengths, lengths) + np.arange(ends[-1])
        passes = np.repeat(passes, lengths)
        if self.shuffle:
            order = np.random.default_rng([FETCH_STREAM, self.seed, epoch.number, fetch]).permutation(len(cells))
            cells, passes = cells[order], passes[order]
        return cells, passes

    def sums(self, per_block: NDArray[np.int64], epoch: Epoch) -> NDArray[np.int64]:
        """Return the sum over the blocks of each fetch, (G,), of something known per block (K,)."""
        return np.add.reduceat(per_block[epoch.blocks], epoch.fetches[:-1])

    def most(self, per_block: NDArray[np.int64]) -> int:
        """Return a bound on what something known per block (K,) adds up to in any epoch, exact without shares.

        With shares it is six standard deviations above the mean: exceeded in fewer than one epoch of 1e8.
        """
        return sum(round(mean + 6 * deviation) for mean, deviation in self._spread(per_block))

    def least(self, per_block: NDArray[np.int64]) -> int:
        """Return the bound on the other side, at least 0."""
        return max(0, sum(round(mean - 6 * deviation) for mean, deviation in self._spread(per_block)))

    def _spread(self, per_block: NDArray[np.int64]) -> list[tuple[float, float]]:
        """Return mean and standard deviation (or a larger number) of an epoch's sum for each pool."""
        found = []
        for pool, draws in enumerate(self.draws.tolist()):
            own = per_block[self.pools[pool] : self.pools[pool + 1]]
            if draws % len(own) == 0:
                found.append((float(own.sum()) * (draws // len(own)), 0.0))
            else:
                # The end of one pass and the beginning of another, each drawn without replacement from the pool.
                found.append((float(own.mean()) * draws, float(own.std()) * min(draws, len(own) / 2) ** 0.5))
        return found
