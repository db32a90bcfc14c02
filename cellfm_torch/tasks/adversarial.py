"""Domain-adversarial training (Ganin 2016): what tells labelled lines must not tell lines from cells.

Shapes: L lines, n cells, b of either in a batch, P coordinates, H hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellfm_torch.tasks.quiet_fit import fit_quietly


class _Reversed(torch.autograd.Function):
    """The same numbers; the gradient times -weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return -ctx.weight * gradients[0], None


def reverse_gradient(x: Tensor, weight: float) -> Tensor:
    """Return `x`; what is learned from it is unlearned by what made it, `weight` times as fast."""
    found: Tensor = _Reversed.apply(x, weight)
    return found


class AdversarialNetwork(nn.Module):
    """An encoder, a classifier of the response and a discriminator of lines from cells.

    Parameters
    ----------
    width
        P.
    hidden
        H.
    dropout
        Share of hidden units.
    """

    def __init__(self, width: int, *, hidden: int = 32, dropout: float = 0.2) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Dropout(dropout))
        self.classifier = nn.Linear(hidden, 1)
        self.discriminator = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of being sensitive, (n,), of lines or cells (n, P)."""
        return self.classifier(self.encoder(x))[:, 0]

    def side(self, x: Tensor, weight: float) -> Tensor:
        """Return logits of being a cell rather than a line, (n,); the encoder unlearns what tells, by `weight`."""
        return self.discriminator(reverse_gradient(self.encoder(x), weight))[:, 0]


class AdversarialTask(pl.LightningModule):
    """Train classifier and discriminator, and the encoder for the one and against the other.

    Parameters
    ----------
    network
        ``network(x)`` gives logits of the response, ``network.side(x, weight)`` of being a cell.
    steps
        Of the whole training: the reversed gradient grows from nothing to `weight` over them.
    weight
        Of the reversed gradient in the end.
    lr, weight_decay
        Of AdamW.
    """

    def __init__(
        self,
        network: AdversarialNetwork,
        *,
        steps: int,
        weight: float = 1.0,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__()
        self.network, self.steps, self.weight = network, steps, weight
        self.lr, self.weight_decay = lr, weight_decay

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of labelled lines (b, P), their labels (b,), and any lines and cells (b, P) each."""
        labelled, sensitive, lines, cells = batch
        grown = 2 / (1 + math.exp(-10 * self.global_step / self.steps)) - 1
        told = self.network.side(torch.cat([lines, cells]), self.weight * grown)
        are_cells = torch.cat([lines.new_zeros(len(lines)), cells.new_ones(len(cells))])
        response = F.binary_cross_entropy_with_logits(self.network(labelled), sensitive)
        return response + F.binary_cross_entropy_with_logits(told, are_cells)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class SideBatches:
    """Lines and cells in memory as steps, each with as many sensitive as resistant lines; no cell has a label.

    Attributes
    ----------
    lines : (L, P)
    cells : (n, P)
    rows : (l,) int64
        Labelled lines.
    sensitive : (l,) bool
        Of those.
    size : int
        b, even.
    steps : int
    generator : torch.Generator
    """

    lines: Tensor
    cells: Tensor
    rows: Tensor
    sensitive: Tensor
    size: int
    steps: int
    generator: torch.Generator

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        half = self.size // 2
        labels = torch.cat([torch.ones(half), torch.zeros(half)])
        for _ in range(self.steps):
            kinds = [self._some(self.rows[self.sensitive == kind], half) for kind in (True, False)]
            lines, cells = (side[self._some(torch.arange(len(side)), self.size)] for side in (self.lines, self.cells))
            yield self.lines[torch.cat(kinds)], labels, lines, cells

    def _some(self, rows: Tensor, number: int) -> Tensor:
        return rows[torch.randint(len(rows), (number,), generator=self.generator)]


def fit_adversarial(network: AdversarialNetwork, batches: SideBatches, *, seed: int, **options: Any) -> None:
    """Train in place, quietly, for as many steps as there are batches; there is no label of a cell to stop by.

    Parameters
    ----------
    seed
        Of dropout.
    options
        ``weight``, ``lr`` and ``weight_decay`` of the task.
    """
    fit_quietly(AdversarialTask(network, steps=batches.steps, **options), batches, seed=seed, max_epochs=1)
    network.eval()
