"""One training step tried out before training starts, to see what memory it needs. Works with any LightningModule."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellfm_torch.errors import UserError
from cellfm_torch.memory.device import CPU_FRAGMENTATION, HEAD_ROOM, available_memory
from cellfm_torch.memory.ledger import Ledger

ADAM_STATES = 2
"""Tensors of a weight's size that the optimiser keeps for it."""


@dataclass(frozen=True)
class Needs:
    """Bytes of a batch as linear functions of its tokens, of which the largest counts.

    Attributes
    ----------
    lines : pairs of float
        Bytes of any batch, and of each token.
    """

    lines: tuple[tuple[float, float], ...]

    def of(self, tokens: int) -> float:
        """Bytes of a batch of so many tokens."""
        return max(fixed + slope * tokens for fixed, slope in self.lines)

    def most_tokens(self, num_bytes: float) -> int:
        """Return the largest number of tokens that need no more."""
        return int(min((num_bytes - fixed) / slope for fixed, slope in self.lines))


class StepTrial:
    """Forward and backward of one batch, as the Trainer would do it; weights, random state and data stay as they were.

    For a callback's ``setup``: the device is known, the loaders are not made yet.

    Parameters
    ----------
    trainer
        With a data module whose ``token_budget`` (tokens per batch) can be changed, and whose loader has plans of
        batches for a sampler and makes batches of plans.
    pl_module
        Moved to the device of the trainer.
    """

    def __init__(self, trainer: Any, pl_module: Any) -> None:
        self.trainer = trainer
        self.data = trainer.datamodule
        self.device: torch.device = trainer.strategy.root_device
        self.module = pl_module.to(self.device)

    @property
    def gradient_bytes(self) -> int:
        """Of all trained weights."""
        return sum(p.numel() * p.element_size() for p in self.module.parameters() if p.requires_grad)

    @property
    def state_bytes(self) -> int:
        """What training keeps beside weights and gradients: Adam's moments and, with several processes, buckets."""
        return self.gradient_bytes * (ADAM_STATES + (self.trainer.world_size > 1))

    @property
    def usable_bytes(self) -> float:
        """What this process may plan with for its batches."""
        on_cpu = self.device.type == "cpu"
        free = available_memory(self.device) / (self.trainer.num_devices if on_cpu else 1)
        return max(0.0, (1 - HEAD_ROOM) * free - self.gradient_bytes - self.state_bytes)

    @cached_property
    def _epoch(self) -> tuple[Any, Any, NDArray[np.int64]]:
        """Loader, plan and tokens (n,) of a batch of all the cells that this rank reads first in an epoch."""
        before, self.data.token_budget = self.data.token_budget, sys.maxsize
        try:
            loader = self.data.train_dataloader()
        finally:
            self.data.token_budget = before
        plan = next(iter(loader.sampler))
        return loader, plan, loader.sampler.lengths[plan.cells]

    @property
    def epoch_tokens(self) -> int:
        """Tokens of all the cells that this rank reads first: no batch has more, as none spans two reads."""
        return int(self._epoch[2].sum())

    def batch(self, tokens: int) -> Any:
        """Return training cells of at most so many tokens, one at least, as a batch on the device."""
        loader, plan, lengths = self._epoch
        cells = max(1, int(np.searchsorted(np.cumsum(lengths), tokens, side="right")))
        return loader.dataset.batch(plan.cells[:cells], plan.passes[:cells]).to(self.device)

    def run(self, batch: Any, *, ledger: Ledger | None = None) -> None:
        """Do the step, within `ledger`. Gradients are dropped at its end."""
        module, was_training = self.module, self.module.training
        module.train()
        # Outside Lightning's loops there is nowhere to log to.
        module.log = module.log_dict = lambda *_, **__: None
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices), self.trainer.precision_plugin.forward_context():
                result = module.training_step(batch, 0)
            loss = result["loss"] if isinstance(result, dict) else result
            if not isinstance(loss, Tensor):
                raise UserError(f"{type(module).__name__} returns no loss to try out: give data.token_budget a number")
            if ledger is None:
                loss.backward()
            else:
                ledger.backward(loss, module.parameters())
        finally:
            del module.log, module.log_dict
            module.train(was_training)
            module.zero_grad(set_to_none=True)

    def peaks(self, batch: Any) -> tuple[float, float]:
        """Bytes of this batch at the peak of its forward and of its backward pass.

        Weights, gradients and optimiser are not among them.
        """
        with Ledger() as ledger:
            self.run(batch, ledger=ledger)
        factor = CPU_FRAGMENTATION if self.device.type == "cpu" else 1.0
        return factor * ledger.peak, factor * ledger.backward_peak

    def needs(self, tokens: int) -> Needs:
        """Return the bytes of a batch by its tokens, from batches of two sizes.

        Parameters
        ----------
        tokens
            Of the larger one.
        """
        batches = [self.batch(tokens // 2), self.batch(tokens)]
        small, large = (batch.num_genes for batch in batches)
        lines = []
        for x, y in zip(*map(self.peaks, batches), strict=True):
            slope = (y - x) / (large - small) if large > small else y / large
            lines.append((max(0.0, y - slope * large), slope))
        return Needs(tuple(lines))
