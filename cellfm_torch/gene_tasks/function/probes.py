"""Classifiers that are given embeddings and nothing else: a small network, logistic regression, nearest neighbours.

Shapes: n genes to learn from, m genes asked about, E width, T terms (1 for two classes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cellfm_torch.analysis.knn import NearestCells
from cellfm_torch.analysis.probe import LinearProbe
from cellfm_torch.gene_tasks.function.folds import inner_split
from cellfm_torch.tasks.gene_function import GeneFunctionTask, fit_gene_function

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Probe = Callable[..., Floats]
"""``probe(x (n, E), targets (n, T), asked (m, E), seed=, **options) -> probabilities (m, T)``."""

INNER_SHARE = 0.15
"""Of the training genes, held out to stop by."""


def prior(x: Floats, targets: Bools, asked: Floats, *, seed: int = 0, **_: Any) -> Floats:
    """Give each gene the share of training genes that have the term: the majority class, or CAFA's naive."""
    return np.tile(targets.mean(0), (len(asked), 1))


def knn(x: Floats, targets: Bools, asked: Floats, *, seed: int = 0, neighbours: int = 15, **_: Any) -> Floats:
    """Let the nearest training genes vote, by the cosine."""
    # A class for each training gene: its share of the votes.
    votes = NearestCells(x, np.arange(len(x)), num_classes=len(x), k=neighbours).probabilities(asked)
    return votes @ targets.astype(np.float64)


def logistic(x: Floats, targets: Bools, asked: Floats, *, seed: int = 0, **_: Any) -> Floats:
    """Fit logistic regression for each term; classes weigh alike where there are several terms."""
    found = np.empty((len(asked), targets.shape[1]))
    for i, target in enumerate(targets.T):
        weights = None if targets.shape[1] == 1 else np.array([1.0, _imbalance(target)])
        probe = LinearProbe.fit(x, target.astype(np.int64), num_classes=2, class_weights=weights)
        found[:, i] = probe.probabilities(asked)[:, 1]
    return found


def mlp(
    x: Floats, targets: Bools, asked: Floats, *, seed: int = 0, accelerator: str = "cpu", **training: Any
) -> Floats:
    """Train the network of :class:`~cellfm_torch.tasks.gene_function.GeneFunctionTask`."""
    terms = targets.shape[1]
    weight = torch.tensor([_imbalance(target) for target in targets.T], dtype=torch.float32)
    classes = np.hstack([targets, ~targets]) if terms == 1 else targets
    held_out = torch.from_numpy(inner_split(classes, INNER_SHARE, seed=seed))
    features = torch.as_tensor(x, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        task = GeneFunctionTask(x.shape[1], terms, positive_weight=None if terms == 1 else weight)
    keys = ("batch_size", "most_epochs", "patience")
    options = {key: training[key] for key in keys if key in training}
    labels = torch.from_numpy(targets)
    fit_gene_function(task, features, labels, held_out=held_out, seed=seed, accelerator=accelerator, **options)
    return task.probabilities(torch.as_tensor(asked, dtype=torch.float32)).double().numpy()


def _imbalance(target: Bools) -> float:
    """Return genes without the term for each with it."""
    return float((~target).sum() / max(target.sum(), 1))


PROBES: dict[str, Probe] = {"mlp": mlp, "logistic": logistic, "knn": knn}


def standardised(train: Floats, asked: Floats) -> tuple[Floats, Floats]:
    """Return both with the training genes' mean 0 and variance 1 of each column; a constant column becomes zeros."""
    mean, scale = train.mean(0), train.std(0)
    varies = scale > 1e-8 * max(1.0, float(np.abs(train).max(initial=0)))
    scale = np.where(varies, scale, 1.0)
    return (train - mean) / scale * varies, (asked - mean) / scale * varies
