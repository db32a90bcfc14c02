"""Gene function: a small network on embeddings of genes, trained by whole tensors, no files and no cells.

Shapes: n genes, E width of the embedding, T terms, C outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellfm_torch.tasks.best import KeepsBest
from cellfm_torch.tasks.quiet_fit import fit_quietly

LEAST_WIDTH = 8
"""Of a hidden layer: half of an embedding of two numbers would be none."""


class GeneFunctionTask(KeepsBest):
    """Tell the classes of genes: E -> E/2 -> E/4 -> C, SiLU, dropout, no biases (published: CellFM's gene function).

    Parameters
    ----------
    width
        E.
    num_terms
        T; 1 for two classes, which are told by the cross-entropy of two outputs, more for as many sigmoids.
    positive_weight : (T,), optional
        Of genes that have a term, against those that have not; for terms.
    dropout
        Share of hidden units.
    lr, weight_decay
        Of AdamW.
    """

    def __init__(
        self,
        width: int,
        num_terms: int,
        *,
        positive_weight: Tensor | None = None,
        dropout: float = 0.15,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__()
        widths = [width, max(width // 2, LEAST_WIDTH), max(width // 4, LEAST_WIDTH)]
        layers: list[nn.Module] = []
        for a, b in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(a, b, bias=False), nn.SiLU(), nn.Dropout(dropout)]
        self.network = nn.Sequential(*layers, nn.Linear(widths[-1], max(num_terms, 2), bias=False))
        self.binary = num_terms == 1
        self.register_buffer("positive_weight", positive_weight)
        self.lr, self.weight_decay = lr, weight_decay

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy: of two classes, or the mean over terms, each term's positives weighted."""
        if self.binary:
            return F.cross_entropy(logits, targets[:, 0].long())
        weight: Any = self.positive_weight
        return F.binary_cross_entropy_with_logits(logits, targets.float(), pos_weight=weight)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of some genes."""
        x, y = batch
        return self.loss(self.network(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss of the held-out genes."""
        x, y = batch
        self.log("val_loss", self.loss(self.network(x), y), batch_size=len(x))

    def on_validation_epoch_end(self) -> None:
        """Keep the best weights in memory: there are few."""
        loss = float(self.trainer.callback_metrics["val_loss"])
        self.keep_if_best(loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """Return the probability of each term, (n, T)."""
        logits = self.eval().network(x)
        return logits.softmax(1)[:, 1:] if self.binary else logits.sigmoid()


class GeneBatches:
    """Tensors in memory as batches of an epoch, shuffled; a loader would cost more than the steps.

    Parameters
    ----------
    x : (n, E)
    y : (n, T)
    size
        Genes per batch.
    least_steps
        Of an epoch, as losses of few genes are looked at too often otherwise.
    seed
        Of the order.
    """

    def __init__(self, x: Tensor, y: Tensor, *, size: int, least_steps: int, seed: int) -> None:
        self.x, self.y, self.size = x, y, size
        self.passes = max(1, -(-least_steps * size // max(len(x), size)))
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.passes * -(-len(self.x) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.passes):
            for rows in torch.randperm(len(self.x), generator=self.generator).split(self.size):
                yield self.x[rows], self.y[rows]


def fit_gene_function(
    task: GeneFunctionTask,
    x: Tensor,
    y: Tensor,
    *,
    held_out: Tensor,
    batch_size: int = 256,
    most_epochs: int = 60,
    patience: int = 5,
    seed: int = 0,
    accelerator: str = "cpu",
) -> GeneFunctionTask:
    """Train by Lightning, quietly, until the loss of held-out genes has not fallen for `patience` epochs.

    Parameters
    ----------
    task
        Its weights are trained in place.
    x : (n, E)
    y : (n, T) bool
    held_out : (n,) bool
        Genes to stop by.
    """
    train = GeneBatches(x[~held_out], y[~held_out], size=batch_size, least_steps=10, seed=seed)
    stop_by = GeneBatches(x[held_out], y[held_out], size=len(x), least_steps=1, seed=seed)
    fit_quietly(task, train, stop_by, seed=seed, patience=patience, accelerator=accelerator, max_epochs=most_epochs)
    return task
