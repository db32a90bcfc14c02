"""Batches of whole cells within a budget of tokens: which cells, in which order, on which rank.

Shapes: C cells of the data set, n cells and m batches of a fetch, G fetches of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

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
    start in a window.

    The batches of an epoch are divided into as many runs, called lanes, as there are batches in an optimiser step; a
    step takes the next batch of every lane. A rank gets neighbouring lanes: one where a batch of each rank makes a
    step, more where gradients accumulate. So the cells of a step depend on the number of lanes and not on the number of
    ranks (2 ranks are 1 rank that accumulates 2 batches), a batch is within the budget of one device, and each lane
    reads its own fetches, which no other rank has to read and decompress too. Dealing the cells of each fetch out to
    ranks would have every rank read all of it.

    Parameters
    ----------
    lengths : (C,) int
        Tokens of each cell.
    token_budget
        Most tokens per batch, at least twice the longest cell.
    order
        Which cells an epoch has, in which order; by default all, in a shuffled order, as blocks of one cell.
    rank, world_size
        This process gets lanes ``rank * accumulate`` and the following.
    accumulate
        Batches of this process in a step: lanes of each rank.

    Attributes
    ----------
    start : int
        Batches of this rank that the next iteration skips: those already used when an epoch is resumed.
    lanes : int
        Batches of an optimiser step, over all ranks.

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
        accumulate: int = 1,
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.order = BlockOrder(np.arange(len(lengths) + 1)) if order is None else order
        longest = int(self.lengths.max())
        if token_budget < 2 * longest:
            raise UserError(
                f"data.token_budget={token_budget} is less than twice the longest cell ({longest:,} genes): "
                f"set at least {2 * longest}"
            )
        self.rank, self.world_size, self.accumulate = rank, world_size, accumulate
        self.lanes = lanes = world_size * accumulate
        blocks = self.order.blocks
        self._tokens = np.add.reduceat(self.lengths, blocks[:-1], dtype=np.int64)
        self._cells = np.diff(blocks)
        # A batch is longer than its window by less than its last cell.
        self._window = token_budget - longest
        batches = self.order.most(self._tokens) // self._window + self.order.num_fetches
        cells = self.order.least(self._cells)
        self.num_batches = -(-min(batches, cells) // lanes) * lanes
        # Rounded up there may be more batches than cells; rounded down, one or two cells each are within the budget.
        self._in_pairs = self.num_batches > cells
        if self._in_pairs:
            self.num_batches = cells // lanes * lanes
        unsure = cells < self.order.most(self._cells)  # epochs take other cells each time
        least = max(1, (cells + self.order.num_fetches) // 2)
        if self._in_pairs and (unsure or least > self.num_batches):
            raise UserError(
                f"{len(self.lengths):,} cells are too few for {world_size} devices: use fewer devices"
                if accumulate == 1
                else f"{len(self.lengths):,} cells are too few for steps of {lanes} batches: lower "
                "trainer.accumulate_grad_batches"
            )
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
        """Yield what this rank reads, one lane after the other; `start` is used up when iteration begins."""
        return chain.from_iterable(self.own_lanes())

    def own_lanes(self) -> list[Iterator[FetchPlan]]:
        """Return what this rank reads, for each of its lanes; `start` is used up.

        After ``start % accumulate`` batches of a step, the lanes from there on are the next to be asked.
        """
        epoch = self.order.epoch(self.epoch)
        batches, length = self._batches(epoch), self.num_batches // self.lanes
        rounds, rest = divmod(self.start, self.accumulate)
        self.start = 0
        firsts = [(self.rank * self.accumulate + lane) * length for lane in range(self.accumulate)]
        return [
            self._run(epoch, batches, first + rounds + (lane < rest), first + length)
            for lane, first in enumerate(firsts)
        ]

    def _run(self, epoch: Epoch, batches: NDArray[np.int64], first: int, last: int) -> Iterator[FetchPlan]:
        """Yield the plans of batches `first` to `last` of an epoch whose fetches are cut into `batches` (G,)."""
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
