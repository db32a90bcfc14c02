"""CellLoader: batches in a reproducible order, made ahead by threads, resumed anywhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from cellfm_torch.batch import CellBatch, StepShare
from cellfm_torch.data.dataset import CellDataset, Fetched
from cellfm_torch.data.sampler import FetchPlan, TokenBudgetSampler
from cellfm_torch.errors import UserError

PIECE_TOKENS = 100_000
"""Gene tokens that are prepared at a time, about: few enough for the cache, many enough for Python not to matter."""

In = TypeVar("In")
Out = TypeVar("Out")


class CellLoader:
    """Batches of one rank for one epoch after another, with Lightning's protocol for loaders that can be resumed.

    Reading, decompression and the preparation of batches run without Python's lock, so threads do what other loaders
    need processes for; the batches do not depend on how many there are. A batch says which share of the targets of its
    optimiser step it has (``batch.share``), so that each target counts the same, whatever batch it is in.

    Parameters
    ----------
    dataset
        Makes batches.
    sampler
        Says which.
    num_workers
        Threads that make batches ahead; 0 makes them when they are asked for.
    """

    batch_sampler = None  # Lightning asks for it where there is a sampler

    def __init__(self, dataset: CellDataset, *, sampler: TokenBudgetSampler, num_workers: int = 0) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.num_workers = num_workers
        self._epoch, self._batches = sampler.epoch, 0

    def __len__(self) -> int:
        """Return the batches of this rank in an epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[CellBatch]:
        """Yield the batches of the sampler's epoch; nothing happens before the first one is asked for.

        Lightning makes the iterator of the first epoch before it tells the sampler which epoch that is.
        """
        self._epoch, self._batches = self.sampler.epoch, self.sampler.start
        size = self.sampler.accumulate, self.sampler.world_size
        for step in self._steps():
            weights = [batch.weight for batch in step]
            for batch, weight in zip(step, weights, strict=True):
                self._batches += 1
                yield replace(batch, share=StepShare(weight, sum(weights), *size))

    def _steps(self) -> Iterator[tuple[CellBatch, ...]]:
        """Yield this rank's batches of one optimiser step after the other; a step that was begun before is short."""
        begun = self.sampler.start % self.sampler.accumulate
        with ExitStack() as stack:
            pool = None
            if self.num_workers:
                pool = stack.enter_context(ThreadPoolExecutor(self.num_workers, thread_name_prefix="cells"))
            lanes = [stack.enter_context(closing(self._lane(plans, pool))) for plans in self.sampler.own_lanes()]
            if begun:
                yield tuple(next(lane) for lane in lanes[begun:])
            yield from zip(*lanes, strict=True)

    def _lane(self, plans: Iterable[FetchPlan], pool: ThreadPoolExecutor | None) -> Generator[CellBatch, None, None]:
        if pool is None:
            for plan in plans:
                fetched = self.dataset.fetch(plan.cells)
                for piece in pieces(plan, self.sampler.lengths[plan.cells]):
                    yield from self._piece(plan, fetched, piece)
            return
        # The next fetch is read while the batches of this one are made.
        read = ahead(pool, lambda plan: (plan, self.dataset.fetch(plan.cells)), plans, number=1)
        tasks = (
            (plan, fetched, piece) for plan, fetched in read for piece in pieces(plan, self.sampler.lengths[plan.cells])
        )
        number = max(1, 2 * self.num_workers // self.sampler.accumulate)
        for made in ahead(pool, lambda task: self._piece(*task), tasks, number=number):
            yield from made

    def _piece(self, plan: FetchPlan, fetched: Fetched, piece: range) -> list[CellBatch]:
        """Return batches `piece` of a plan."""
        own = slice(plan.cuts[piece.start], plan.cuts[piece.stop])
        whole = self.dataset.batch(plan.cells[own], plan.passes[own], fetched=Fetched(fetched.rows, fetched.where[own]))
        if torch.cuda.is_available():
            whole = whole.pin_memory()
        cuts = plan.cuts[piece.start : piece.stop + 1] - plan.cuts[piece.start]
        return [part(whole, int(a), int(b)) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, how many of its batches all ranks have had, and what these numbers refer to."""
        epoch = self.sampler.epoch
        return {
            "epoch": epoch,
            "batches": self._batches * self.sampler.world_size if epoch == self._epoch else 0,
            "batches_per_epoch": self.sampler.num_batches,
            "blocks": len(self.sampler.order.blocks) - 1,
            "batches_per_step": self.sampler.lanes,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the batches already handed out, on any number of ranks that makes steps of as many batches.

        Raises
        ------
        UserError
            If that was in the middle of an epoch that is divided differently now.
        """
        now, then = self.state_dict(), state_dict
        for what in ("batches_per_step", "blocks", "batches_per_epoch"):
            if then["batches"] and then.get(what, now[what]) != now[what]:
                raise UserError(
                    f"the checkpoint is from the middle of an epoch with {then[what]:,} {what.replace('_', ' ')}, and "
                    f"now there are {now[what]:,}: resume with the same data, data.token_budget, data.stream, "
                    "data.block_size, and number of devices times trainer.accumulate_grad_batches"
                )
        self._epoch, self._batches = then["epoch"], then["batches"] // self.sampler.world_size
        self.sampler.set_epoch(self._epoch)
        self.sampler.start = self._batches


def part(batch: CellBatch, first: int, last: int) -> CellBatch:
    """Return cells `first` to `last` of a batch without extras, as a batch that shares its memory."""
    begin, end = int(batch.offsets[first]), int(batch.offsets[last])

    def genes(x: Tensor | None) -> Any:
        return None if x is None else x[begin:end]

    def cells(x: Tensor | None) -> Any:
        return None if x is None else x[first:last]

    return CellBatch(
        gene_ids=genes(batch.gene_ids),
        values=genes(batch.values),
        hidden=genes(batch.hidden),
        offsets=batch.offsets[first : last + 1] - begin,
        cell_index=cells(batch.cell_index),
        target=genes(batch.target),
        target_values=genes(batch.target_values),
        read_depth=cells(batch.read_depth),
        labels=cells(batch.labels),
    )


def pieces(plan: FetchPlan, lengths: np.ndarray) -> list[range]:
    """Return runs of batches of a plan with about `PIECE_TOKENS` tokens each; `lengths` are those of its cells."""
    ends = np.cumsum(lengths, dtype=np.int64)[plan.cuts[1:] - 1]
    number = np.concatenate([[0], ends[:-1] // PIECE_TOKENS])
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(ends)], strict=True)]


def ahead(
    pool: ThreadPoolExecutor, function: Callable[[In], Out], tasks: Iterable[In], *, number: int
) -> Iterator[Out]:
    """Yield ``function(task)`` for each task, in order, with `number` of them under way."""
    waiting: deque[Future[Out]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) > number:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # the consumer stopped early: what has not begun need not
        for future in waiting:
            future.cancel()
