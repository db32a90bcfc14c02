"""Baselines of drug response: means, ridge regression on expression, the most similar drug.

Shapes: L lines, D drugs, G genes, n pairs.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import variable_genes
from cellfm_torch.data.compounds import similarity
from cellfm_torch.drug.means import Floats, Means, Pairs, fit_means, known_means
from cellfm_torch.drug.splits import Split

DRUG_MEAN, BOTH_MEANS, RIDGE, NEAREST = "drug mean", "drug mean + line mean", "ridge on expression", "most similar drug"
BASELINES = (DRUG_MEAN, BOTH_MEANS, RIDGE, NEAREST)

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Of ridge, in mean squared lengths of a line; the validation pairs choose."""

LEAST_LINES = 10
"""Training lines of a drug that has a ridge regression of its own."""


def mean_baselines(values: Floats, split: Split) -> dict[str, Floats]:
    """Return test predictions by means: of the drug, and of drug and line; what is new has the mean of all."""
    return {
        DRUG_MEAN: fit_means(values, split.train, lines=False).of(split.test),
        BOTH_MEANS: fit_means(values, split.train).of(split.test),
    }


def nearest_drug(values: Floats, split: Split, drugs: NDArray[np.float32]) -> Floats:
    """Return the training mean of the most similar drugs (the mean of all that are equally so), and the line's effect.

    Parameters
    ----------
    drugs : (D, F)
        Fingerprints.
    """
    means = fit_means(values, split.train)
    seen = np.unique(split.train[:, 1])
    asked = np.unique(split.test[:, 1])
    alike = similarity(drugs[asked], drugs[seen])
    best = alike >= alike.max(1, keepdims=True) - 1e-9
    effect = dict(zip(asked.tolist(), (best @ means.drug[seen]) / best.sum(1), strict=True))
    of_drugs = np.array([effect[int(d)] for d in split.test[:, 1]])
    return means.middle + means.line[split.test[:, 0]] + of_drugs


def ridge(values: Floats, split: Split, expression: sp.csr_matrix) -> Floats:
    """Return test predictions by a ridge regression per drug on the most variable genes.

    It predicts what the means that the split leaves known do not say. A drug without training lines gets the mean
    of the other drugs' regressions. The penalty is the one that suits the validation pairs best.

    Parameters
    ----------
    expression : (L, G)
        log1p(CP10K).
    """
    means = known_means(values, split.train, split.kind)
    lines = np.unique(split.train[:, 0])
    genes = variable_genes(expression[lines])
    x = np.asarray(expression[:, genes].todense(), dtype=np.float64)
    x = (x - x[lines].mean(0)) / np.maximum(x[lines].std(0), 1e-6)
    kernel = x @ x.T / max(float((x[lines] ** 2).sum(1).mean()), 1e-12)
    answers = [_by_drug(values, split.train, kernel, means, penalty) for penalty in PENALTIES]
    stop, test = split.validation, split.test
    true = values[stop[:, 0], stop[:, 1]]
    errors = [((means.of(stop) + rest[stop[:, 0], stop[:, 1]] - true) ** 2).mean() for rest in answers]
    return means.of(test) + answers[int(np.argmin(errors))][test[:, 0], test[:, 1]]


def _by_drug(values: Floats, train: Pairs, kernel: Floats, means: Means, penalty: float) -> Floats:
    """Return what regressions say of each line and drug beyond the means, (L, D)."""
    found = np.full(values.shape, np.nan)
    rest = values[train[:, 0], train[:, 1]] - means.of(train)
    for drug in np.unique(train[:, 1]):
        own = train[:, 1] == drug
        if own.sum() < LEAST_LINES:
            continue
        rows = train[own, 0]
        weights = np.linalg.solve(kernel[np.ix_(rows, rows)] + penalty * np.eye(len(rows)), rest[own])
        found[:, drug] = kernel[:, rows] @ weights
    known = np.isfinite(found).any(0)
    other = found[:, known].mean(1) if known.any() else np.zeros(len(found))
    return np.where(np.isfinite(found), found, other[:, None])
