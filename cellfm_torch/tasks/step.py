"""Losses of an optimiser step whose batches are spread over processes, and over time where gradients accumulate.

A batch's loss is a mean over its targets. The mean of such means would let a target of a small batch count for more
than one of a large batch; weighted by its share of the step's targets, every target counts the same. So the gradient
of a step depends on its cells alone, and not on how they were dealt to processes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cellfm_torch.batch import CellBatch, StepShare

ALONE = StepShare(1, 1)
"""Of a batch that does not know its share."""


def share_of_step(task: Any, batch: CellBatch) -> Tensor | float:
    """Return the factor by which a batch's loss enters the mean over the batches of its step.

    It is (batches of the step) x (weight of the batch) / (weight of the step): Lightning takes the mean over the
    batches that accumulate, and DDP and FSDP the mean over processes. All processes have to ask, once per batch.

    Parameters
    ----------
    task
        A LightningModule; where there are several processes, with a Trainer.
    batch
        One that does not know its share counts by itself: 1.
    """
    share = batch.share or ALONE
    if share.processes == 1:
        return share.batches * share.weight / max(1, share.of_step)
    total = torch.full((), share.of_step, dtype=torch.int64, device=batch.values.device)
    total = task.trainer.strategy.reduce(total, reduce_op="sum")
    return share.batches * share.processes * share.weight / total.clamp_min(1)


class StepMeans:
    """Means over an optimiser step of what its batches contribute, for the log: one reduction a step."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, task: Any, parts: dict[str, Tensor], batch: CellBatch, batch_idx: int) -> dict[str, Tensor]:
        """Add a batch's parts, weighted by its share.

        Parameters
        ----------
        task
            A LightningModule; where there are several processes, with a Trainer.
        parts
            Scalars by name, the same names in every process.
        batch, batch_idx
            As ``training_step`` gets them.

        Returns
        -------
        The means over batches and processes after the last batch of a step, and nothing before.
        """
        share = batch.share or ALONE
        if batch_idx % share.batches == 0:
            self._sums = {}
        for name, part in parts.items():
            self._sums[name] = self._sums.get(name, 0) + part.detach()
        if (batch_idx + 1) % share.batches:
            return {}
        values = torch.stack(list(self._sums.values())) / share.batches
        if share.processes > 1:
            values = task.trainer.strategy.reduce(values, reduce_op="mean")
        return dict(zip(self._sums, values.unbind(), strict=True))
