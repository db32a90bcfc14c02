"""Batches of whole cells within a budget of tokens: which cells, in which order, on which rank.

Shapes: C cells of the data set, n batches of all ranks in an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from cellfm_torch.errors import UserError

ORDER_STREAM = 1
"""First word of the seed of the cell order; other uses of the same user seed start with another word."""


@dataclass(frozen=True)
class BatchPlan:
    """One batch before it is made: together with the seed it determines every number in it.

    Attributes
    ----------
    epoch, index : int
        Epoch, and number of the batch within it over all ranks.
    cells : int64 array
        Positions in the data set.
    """

    epoch: int
    index: int
    cells: NDArray[np.int64]


class TokenBudgetSampler(DistributedSampler[BatchPlan]):
    """Deal the cells out in batches of at most `token_budget` tokens, each cell once per epoch.

    The cells, in this epoch's order, lie end to end on a line of tokens that is cut into n equal windows; a batch is
    the cells that start in a window. So n does not depend on the order, and stays the same over epochs. A
    DistributedSampler, for Lightning to see that the batches are dealt out to ranks already.

    Parameters
    ----------
    lengths : (C,) int
        Tokens of each cell.
    token_budget
        Most tokens per batch, at least twice the longest cell.
    seed
        Of the order.
    shuffle
        New order each epoch; otherwise file order.
    rank, world_size
        This process gets batches rank, rank + world_size, ... of every epoch.

    Attributes
    ----------
    start : int
        Batches of this rank that the next iteration skips: those already used when an epoch is resumed.

    Raises
    ------
    UserError
        If the budget is too small, or there are fewer cells than batches.
    """

    def __init__(
        self,
        lengths: NDArray[np.integer],
        *,
        token_budget: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(range(len(lengths)), num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.lengths = np.asarray(lengths, dtype=np.int64)
        longest, total = int(self.lengths.max()), int(self.lengths.sum())
        if token_budget < 2 * longest:
            raise UserError(
                f"data.token_budget={token_budget} is less than twice the longest cell ({longest:,} genes): "
                f"set at least {2 * longest}"
            )
        # A batch is longer than its window by less than its last cell.
        windows = -(-total // (token_budget - longest))
        self.num_batches = -(-windows // world_size) * world_size
        if self.num_batches > len(self.lengths):
            raise UserError(f"{len(self.lengths):,} cells are too few for {world_size} devices: use fewer devices")
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives; a new epoch starts at its beginning."""
        if epoch != self.epoch:
            self.start = 0
        self.epoch = epoch

    def __iter__(self) -> Iterator[BatchPlan]:
        """Yield the batches of this rank; `start` is used up with the first, as DataLoader makes spare iterators."""
        plans = self._plans()[self.rank :: self.num_replicas][self.start :]
        self.start = 0
        yield from plans

    def __len__(self) -> int:
        return self.num_batches // self.num_replicas

    def _plans(self) -> list[BatchPlan]:
        """Return the batches of all ranks in this epoch."""
        order = np.arange(len(self.lengths))
        if self.shuffle:
            order = np.random.default_rng([ORDER_STREAM, self.seed, self.epoch]).permutation(order)
        ends = np.cumsum(self.lengths[order])
        windows = np.arange(self.num_batches + 1)
        cuts = np.searchsorted(ends - self.lengths[order], windows * ends[-1] // self.num_batches)  # (n + 1,) cells
        # A long cell may span a whole window; that batch then takes the last cell of the one before.
        cuts = np.minimum.accumulate((cuts - windows)[::-1])[::-1] + windows
        return [BatchPlan(self.epoch, i, cells) for i, cells in enumerate(np.split(order, cuts[1:-1]))]
