"""Chemical perturbation: a velocity of cells, learned from pairs of control and treated ones.

Shapes: n cells, P coordinates, F numbers of a compound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn


def flow_matching_loss(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the mean squared error of the velocity on the straight way between paired cells.

    Parameters
    ----------
    network
        ``network(x, time, compound, dose)`` gives velocities (n, P).
    batch
        ``start`` and ``end`` (n, P), ``time`` and ``dose`` (n, 1), ``compound`` (n, F).
    """
    start, end, time = batch["start"], batch["end"], batch["time"]
    velocity = network(start + time * (end - start), time, batch["compound"], batch["dose"])
    return ((velocity - (end - start)) ** 2).mean()


class ChemTask(pl.LightningModule):
    """Train a conditional flow.

    Parameters
    ----------
    network
        See :func:`flow_matching_loss`.
    lr, weight_decay
        Of AdamW; the rate falls to zero by a cosine.
    average
        Share of the averaged weights that a step keeps; the network ends with the averaged ones.
    """

    def __init__(
        self, network: nn.Module, *, lr: float = 5e-4, weight_decay: float = 1e-2, average: float = 0.99
    ) -> None:
        super().__init__()
        self.network = network
        self.lr, self.weight_decay, self.average = lr, weight_decay, average
        self.averaged: dict[str, Tensor] = {}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch of pairs."""
        loss = flow_matching_loss(self.network, batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["start"]))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Average the weights."""
        keep = min(self.average, self.global_step / (self.global_step + 10))
        for name, weight in self.network.state_dict().items():
            before = self.averaged.get(name, weight)
            self.averaged[name] = keep * before + (1 - keep) * weight.detach()

    def on_fit_end(self) -> None:
        """Take the averaged weights."""
        if self.averaged:
            self.network.load_state_dict(self.averaged)
        self.averaged = {}

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule, step by step."""
        optimiser = torch.optim.AdamW(self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
