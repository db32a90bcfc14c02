"""What a foundation model has to beat: the commonest type, and plain methods on log-normalised counts.

Shapes: n training cells, m cells asked about, G genes, C classes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import fitted_pca, log_normalised, variable_genes
from cellfm_torch.analysis.knn import NearestCells
from cellfm_torch.analysis.probe import LinearProbe

Codes = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
Baseline = Callable[[sp.csr_matrix, Codes, sp.csr_matrix, int, int], Floats]
"""``baseline(training counts (n, G), codes (n,), counts (m, G), num_classes, seed) -> probabilities (m, C)``."""


def majority(train: sp.csr_matrix, codes: Codes, cells: sp.csr_matrix, num_classes: int, seed: int) -> Floats:
    """Say of each cell what share of the training cells each class has."""
    shares = np.bincount(codes, minlength=num_classes) / len(codes)
    return np.tile(shares, (cells.shape[0], 1))


def pca_knn(train: sp.csr_matrix, codes: Codes, cells: sp.csr_matrix, num_classes: int, seed: int) -> Floats:
    """Vote among nearest neighbours on 50 principal components of log-normalised variable genes."""
    a, b = _variable(train, cells)
    pca = fitted_pca(a, seed=seed)
    return NearestCells(pca.transform(a), codes, num_classes=num_classes).probabilities(pca.transform(b))


def logistic(train: sp.csr_matrix, codes: Codes, cells: sp.csr_matrix, num_classes: int, seed: int) -> Floats:
    """Fit logistic regression on standardised, log-normalised variable genes."""
    a, b = _variable(train, cells)
    return LinearProbe.fit(a, codes, num_classes=num_classes, most_steps=200).probabilities(b)


def celltypist(train: sp.csr_matrix, codes: Codes, cells: sp.csr_matrix, num_classes: int, seed: int) -> Floats:
    """Let CellTypist train its own model (doi 10.1126/science.abl5197), where it is installed."""
    import anndata
    import celltypist as library

    genes = [f"G{i}" for i in range(train.shape[1])]
    a, b = (anndata.AnnData(log_normalised(x), var=pd.DataFrame(index=genes)) for x in (train, cells))
    library.logger.set_level(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # By stochastic gradients: its other solver asks scikit-learn for an argument that 1.8 no longer has.
        labels = np.array([str(code) for code in codes])
        model = library.train(a, labels=labels, use_SGD=True, n_jobs=1, check_expression=False, random_state=seed)
        found = library.annotate(b, model=model).decision_matrix
    # Its classes are scored one against the rest: sigmoids, which are brought to a sum of 1 as logarithms.
    logs = np.full((cells.shape[0], num_classes), -np.inf)
    logs[:, found.columns.astype(int)] = -np.logaddexp(0, -found.to_numpy())
    likelihood = np.exp(logs - logs.max(1, keepdims=True))
    return likelihood / likelihood.sum(1, keepdims=True)


def _variable(train: sp.csr_matrix, cells: sp.csr_matrix) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    a, b = log_normalised(train), log_normalised(cells)
    chosen = variable_genes(a)
    return a[:, chosen].toarray(), b[:, chosen].toarray()


BASELINES: dict[str, Baseline] = {
    "majority": majority,
    "pca_knn": pca_knn,
    "gene_logistic": logistic,
    "celltypist": celltypist,
}

WITHOUT_CHANCE = ("majority", "gene_logistic")
"""Those for which the seed is no matter."""


def available() -> list[str]:
    """Return the baselines that can be run here: CellTypist where it is installed."""
    return [name for name in BASELINES if name != "celltypist" or find_spec("celltypist") is not None]
