"""Drug response: IC50 from the embedding of a cell line and the fingerprint of a drug.

Shapes: n pairs, E width of a line, F width of a drug, H hidden units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellfm_torch.tasks.best import KeepsBest
from cellfm_torch.tasks.quiet_fit import fit_quietly

LEAST_STEPS = 20
"""Of an epoch, as the loss of few pairs is looked at too often otherwise."""


class TwoTowers(nn.Module):
    """A tower for lines, one for drugs, and a head on both and on their product.

    Parameters
    ----------
    line_width, drug_width
        E and F.
    hidden
        H.
    dropout
        Share of hidden units.
    """

    def __init__(self, line_width: int, drug_width: int, *, hidden: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        self.line = nn.Sequential(nn.Linear(line_width, hidden), nn.SiLU(), nn.Dropout(dropout))
        self.drug = nn.Sequential(nn.Linear(drug_width, hidden), nn.SiLU(), nn.Dropout(dropout))
        self.of_line, self.of_drug = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        last = nn.Linear(hidden, 1)
        self.head = nn.Sequential(nn.Linear(3 * hidden, hidden), nn.SiLU(), nn.Dropout(dropout), last)
        nn.init.zeros_(last.weight)  # so that what is known without the network is where it starts
        nn.init.zeros_(last.bias)

    def forward(self, line: Tensor, drug: Tensor) -> Tensor:
        """Return responses (n,) of lines (n, E) to drugs (n, F)."""
        a, b = self.line(line), self.drug(drug)
        return self.head(torch.cat([a, b, self.of_line(a) * self.of_drug(b)], dim=1))[:, 0]


class DrugResponseTask(KeepsBest):
    """Train two towers by the mean squared error; it ends with the weights of the smallest validation loss.

    Parameters
    ----------
    network
        ``network(line, drug)`` gives responses (n,).
    lr, weight_decay
        Of AdamW.
    """

    def __init__(self, network: nn.Module, *, lr: float = 1e-3, weight_decay: float = 1e-2) -> None:
        super().__init__()
        self.network, self.lr, self.weight_decay = network, lr, weight_decay

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of some pairs."""
        line, drug, y = batch
        return F.mse_loss(self.network(line, drug), y)

    def on_validation_epoch_start(self) -> None:
        """Start to add up: the last batch is smaller."""
        self._sum, self._number = 0.0, 0

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Add up the loss of the validation pairs."""
        line, drug, y = batch
        self._sum += float(F.mse_loss(self.network(line, drug), y, reduction="sum"))
        self._number += len(y)

    def on_validation_epoch_end(self) -> None:
        """Keep the best weights in memory: there are few."""
        loss = self._sum / max(self._number, 1)
        self.log("val_loss", loss)
        self.keep_if_best(loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class PairBatches:
    """Pairs in memory as batches of an epoch.

    Attributes
    ----------
    lines : (L, E)
    drugs : (D, F)
    pairs : (n, 2) int64
        Rows of `lines` and `drugs`.
    y : (n,)
    size : int
        Pairs per batch.
    generator : torch.Generator or None
        Of the order; None: as they are, each once.
    """

    lines: Tensor
    drugs: Tensor
    pairs: Tensor
    y: Tensor
    size: int
    generator: torch.Generator | None = None

    @property
    def _passes(self) -> int:
        per_pass = -(-len(self.y) // self.size)
        return 1 if self.generator is None else max(1, -(-LEAST_STEPS // max(per_pass, 1)))

    def __len__(self) -> int:
        return self._passes * -(-len(self.y) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for _ in range(self._passes):
            number = len(self.y)
            order = torch.arange(number)
            if self.generator is not None:
                order = torch.randperm(number, generator=self.generator)
            for rows in order.split(self.size):
                line, drug = self.pairs[rows].T
                yield self.lines[line], self.drugs[drug], self.y[rows]


def fit_drug_response(
    network: nn.Module,
    train: PairBatches,
    validation: PairBatches,
    *,
    lr: float = 1e-3,
    weight_decay: float = 1e-2,
    patience: int = 8,
    seed: int = 0,
    trainer: Mapping[str, Any] | None = None,
) -> int:
    """Train in place by Lightning, quietly, until the validation loss has not fallen for `patience` epochs.

    Parameters
    ----------
    train, validation
        Pairs; nothing else is seen.
    seed
        Of dropout.
    trainer
        Options of Lightning's Trainer.

    Returns
    -------
    int
        Epochs done.
    """
    task = DrugResponseTask(network, lr=lr, weight_decay=weight_decay)
    # A look before training: where there is nothing to learn, what is known without the network is kept.
    options = {"max_epochs": 60, "num_sanity_val_steps": -1, **(trainer or {})}
    epochs = fit_quietly(task, train, validation, seed=seed, patience=patience, **options)
    network.eval()
    return epochs
