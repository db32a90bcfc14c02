"""Batches of whole cells within a budget of tokens: which cells, in which order, on which rank.

Shapes: C cells of the data set, n cells and m batches of a fetch, G fetches of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.data.order import BlockOrder, Epoch
from cellfm_torch.errors import UserError


@dataclass(frozen=True)
class FetchPlan:
    """Cells that are read together, and the batches they make up.

    Attributes
    ----------
    epoch, index : int
        Epoch, and number of the first batch within it over all ranks.
    cells : (n,) int64
        Positions in the data set, in the order of use.
    passes : (n,) int64
        How often each cell was used before: with the seed, what its masks depend on.
    cuts : (m + 1,) int64
        Batch i holds ``cells[cuts[i]:cuts[i + 1]]``, at least one.
    """

    epoch: int
    index: int
    cells: NDArray[np.int64]
    passes: NDArray[np.int64]
    cuts: NDArray[np.int64]


class TokenBudgetSampler:
    """Deal the cells out in batches of at most `token_budget` tokens, in a constant number of batches per epoch.

    The cells of a fetch lie end to end on a line of tokens that is cut into equal windows; a batch is the cells that
    start in a window. A rank gets a run of the epoch's batches, so that it reads other fetches than its neighbours.

    Parameters
    ----------
    lengths : (C,) int
        Tokens of each cell.
    token_budget
        Most tokens per batch, at least twice the longest cell.
    order
        Which cells an epoch has, in which order; by default all, in a shuffled order, as blocks of one cell.
    rank, world_size
        This process gets the batches of every epoch from ``rank / world_size`` on.

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
        order: BlockOrder | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.order = BlockOrder(np.arange(len(lengths) + 1)) if order is None else order
        longest = int(self.lengths.max())
        if token_budget < 2 * longest:
            raise UserError(
                f"data.token_budget={token_budget} is less than twice the longest cell ({longest:,} genes): "
                f"set at least {2 * longest}"
            )
        self.rank, self.world_size = rank, world_size
        blocks = self.order.blocks
        self._tokens = np.add.reduceat(self.lengths, blocks[:-1], dtype=np.int64)
        self._cells = np.diff(blocks)
        # A batch is longer than its window by less than its last cell.
        self._window = token_budget - longest
        batches = self.order.most(self._tokens) // self._window + self.order.num_fetches
        cells = self.order.least(self._cells)
        self.num_batches = -(-min(batches, cells) // world_size) * world_size
        # Rounded up there may be more batches than cells; rounded down, one or two cells each are within the budget.
        self._in_pairs = self.num_batches > cells
        if self._in_pairs:
            self.num_batches = cells // world_size * world_size
        unsure = cells < self.order.most(self._cells)  # epochs take other cells each time
        least = max(1, (cells + self.order.num_fetches) // 2)
        if self._in_pairs and (unsure or least > self.num_batches):
            raise UserError(f"{len(self.lengths):,} cells are too few for {world_size} devices: use fewer devices")
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives; a new epoch starts at its beginning."""
        if epoch != self.epoch:
            self.start = 0
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the batches of this rank in an epoch."""
        return self.num_batches // self.world_size

    def __iter__(self) -> Iterator[FetchPlan]:
        """Yield what this rank reads; `start` is used up when iteration begins."""
        epoch, first = self.order.epoch(self.epoch), self.rank * len(self) + self.start
        last = (self.rank + 1) * len(self)
        self.start = 0
        batches = self._batches(epoch)
        begins = np.concatenate([[0], np.cumsum(batches)])
        for fetch in range(len(batches)):
            low, high = max(first, begins[fetch]) - begins[fetch], min(last, begins[fetch + 1]) - begins[fetch]
            if low >= high:
                continue
            cells, passes = self.order.cells(epoch, fetch)
            number = int(batches[fetch])
            cuts = np.arange(number + 1) * len(cells) // number if self._in_pairs else cut(self.lengths[cells], number)
            cuts = cuts[low : high + 1]
            own = slice(cuts[0], cuts[-1])
            yield FetchPlan(epoch.number, int(begins[fetch] + low), cells[own], passes[own], cuts - cuts[0])

    def _batches(self, epoch: Epoch) -> NDArray[np.int64]:
        """Return how many batches each fetch is cut into, (G,); they add up to `num_batches`."""
        tokens, cells = self.order.sums(self._tokens, epoch), self.order.sums(self._cells, epoch)
        window = self._window
        batches = -(-cells // 2) if self._in_pairs else -(-tokens // window)
        while batches.sum() > self.num_batches:  # see BlockOrder.most
            window += -(-window // 100)
            batches = -(-tokens // window)
        while spare := self.num_batches - int(batches.sum()):
            room = np.flatnonzero(batches < cells)
            assert len(room), "an epoch has at least as many cells as batches"
            batches[room[:spare]] += 1
        return batches


def cut(lengths: NDArray[np.integer], batches: int) -> NDArray[np.int64]:
    """Cut cells (n,) that lie end to end into `batches` runs of about equal length, none of them empty, (m + 1,)."""
    ends = np.cumsum(lengths, dtype=np.int64)
    windows = np.arange(batches + 1)
    cuts = np.searchsorted(ends - lengths, windows * ends[-1] // batches)
    # Where long cells span whole windows, the batch takes the cell that follows, or the last one of the batch before.
    cuts = np.maximum.accumulate(cuts - windows) + windows
    return np.minimum(cuts, len(lengths) - batches + windows)
