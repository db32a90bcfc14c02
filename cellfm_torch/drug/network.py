"""Two towers fitted to the training pairs of a split; validation pairs say when to stop, test pairs are never read.

Shapes: L lines, E width of a line, D drugs, F width of a drug, n pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cellfm_torch.drug.means import Floats, Means, Pairs, known_means
from cellfm_torch.drug.splits import Split
from cellfm_torch.errors import UserError
from cellfm_torch.tasks.drug import PairBatches, TwoTowers, fit_drug_response

COMPONENTS = 50
"""Of embeddings, at most; half as many as there are training lines where these are few."""


@dataclass(frozen=True)
class FitOptions:
    """How the two towers are trained.

    Attributes
    ----------
    hidden : int
        Units of each layer.
    lr, weight_decay, dropout : float
    batch_size : int
        Pairs.
    patience : int
        Epochs without a smaller validation loss.
    trainer : mapping
        Options of Lightning's Trainer.

    Raises
    ------
    UserError
        If one is out of its range.
    """

    hidden: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-2
    dropout: float = 0.2
    batch_size: int = 512
    patience: int = 8
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("hidden", "batch_size", "patience"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise UserError(f"fit.{name}={getattr(self, name)}: must be a whole number, at least 1")
        if not self.lr > 0:
            raise UserError(f"fit.lr={self.lr}: must be more than 0")
        if not 0 <= self.dropout < 1 or self.weight_decay < 0:
            raise UserError("fit.dropout must be between 0 and 1, fit.weight_decay not negative")


@dataclass(frozen=True)
class FittedResponse:
    """What was learned: ``of(pairs)`` predicts ln(uM)."""

    network: TwoTowers
    lines: torch.Tensor
    drugs: torch.Tensor
    offsets: Means
    scale: float
    epochs: int

    @torch.no_grad()
    def of(self, pairs: Pairs) -> Floats:
        """Return predicted ln(uM) of pairs (n, 2), (n,)."""
        asked = torch.from_numpy(np.ascontiguousarray(pairs))
        found = [self.network(self.lines[part[:, 0]], self.drugs[part[:, 1]]) for part in asked.split(4096)]
        return self.offsets.of(pairs) + self.scale * torch.cat(found).double().numpy()


def line_features(embeddings: NDArray[np.floating], train: NDArray[np.int64]) -> Floats:
    """Return principal components (L, P) of embeddings (L, E), each standardised; all by the training lines only.

    All numbers of an embedding rise and fall together over lines to a large part, so that what tells lines apart would
    be small beside it.
    """
    x = np.asarray(embeddings, dtype=np.float64)
    x = (x - x[train].mean(0)) / np.maximum(x[train].std(0), 1e-6)
    directions = np.linalg.svd(x[train], full_matrices=False)[2]
    x = x @ directions[: max(1, min(COMPONENTS, len(train) // 2))].T
    return np.clip(x / np.maximum(x[train].std(0), 1e-6), -10, 10)


def fit(
    values: Floats,
    split: Split,
    embeddings: NDArray[np.floating],
    drugs: NDArray[np.float32],
    options: FitOptions,
) -> FittedResponse:
    """Learn the training pairs.

    The network predicts what the known means leave unsaid (see :func:`~cellfm_torch.drug.means.known_means`), in their
    standard deviations, from :func:`line_features` of the embeddings.

    Parameters
    ----------
    values : (L, D)
        ln(uM); those of test pairs are not read.
    embeddings : (L, E)
    drugs : (D, F)

    Raises
    ------
    UserError
        If an embedding is no number.
    """
    if not np.isfinite(embeddings).all():
        raise UserError("the model's embedding of some lines is no number: its weights are damaged")
    offsets = known_means(values, split.train, split.kind)
    rest = {part: _rest(values, getattr(split, part), offsets) for part in ("train", "validation")}
    scale = max(float(rest["train"].std()), 1e-6)
    x = line_features(embeddings, np.unique(split.train[:, 0]))
    sides = torch.from_numpy(x).float(), torch.from_numpy(drugs).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(split.seed)
        network = TwoTowers(x.shape[1], drugs.shape[1], hidden=options.hidden, dropout=options.dropout)
    batches = {
        part: PairBatches(
            *sides,
            torch.from_numpy(getattr(split, part)),
            torch.from_numpy(rest[part] / scale).float(),
            options.batch_size,
            torch.Generator().manual_seed(split.seed) if part == "train" else None,
        )
        for part in ("train", "validation")
    }
    epochs = fit_drug_response(
        network,
        batches["train"],
        batches["validation"],
        lr=options.lr,
        weight_decay=options.weight_decay,
        patience=options.patience,
        seed=split.seed,
        trainer=options.trainer,
    )
    return FittedResponse(network, *sides, offsets, scale, epochs)


def _rest(values: Floats, pairs: Pairs, offsets: Means) -> Floats:
    return values[pairs[:, 0], pairs[:, 1]] - offsets.of(pairs)
