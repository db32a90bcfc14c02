"""Counts as every baseline sees them: log1p(CP10K), variable genes, principal components.

Shapes: B cells, G genes, P components.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

Floats = NDArray[np.float64]

VARIABLE_GENES = 2000
DISPERSION_BINS = 20
COMPONENTS = 50


def is_counts(matrix: Any) -> bool:
    """Say whether a matrix holds counts: nothing negative and nothing but whole numbers."""
    values = matrix.data if sp.issparse(matrix) else np.asarray(matrix)
    return bool(np.all(values >= 0) and np.all(values == np.floor(values)))


def log_normalised(matrix: Any) -> sp.csr_matrix:
    """Return log1p(CP10K), natural logarithm, of counts; a matrix that holds no counts is taken as normalised already.

    Parameters
    ----------
    matrix : (B, G)
        Dense or sparse.

    Returns
    -------
    (B, G) float32 CSR matrix; cells without counts stay empty.
    """
    counts = sp.csr_matrix(matrix, dtype=np.float32, copy=True)
    if is_counts(matrix):
        totals = np.asarray(counts.sum(1), dtype=np.float64).ravel()
        counts.data *= np.repeat(1e4 / np.maximum(totals, 1), np.diff(counts.indptr)).astype(np.float32)
        np.log1p(counts.data, out=counts.data)
    return counts


def moments(x: sp.csr_matrix) -> tuple[Floats, Floats]:
    """Return mean and variance (divided by B - 1) of each column, (G,) each."""
    number = x.shape[0]
    x = x.astype(np.float64)
    mean = np.asarray(x.mean(0)).ravel()
    squares = np.asarray(x.multiply(x).mean(0)).ravel()
    return mean, np.maximum(squares - mean**2, 0) * number / max(number - 1, 1)


def variable_genes(values: sp.csr_matrix, number: int = VARIABLE_GENES) -> NDArray[np.int64]:
    """Return the most variable genes of log-normalised cells, ascending.

    By dispersion (variance over mean of CP10K), standardised among genes of similar mean: Seurat's rule
    (doi 10.1038/nbt.3192), genes in 20 bins of their mean.
    """
    linear = values.copy()
    linear.data = np.expm1(linear.data.astype(np.float64))
    mean = np.asarray(linear.mean(axis=0)).ravel()
    linear.data **= 2
    variance = np.maximum(np.asarray(linear.mean(axis=0)).ravel() - mean**2, 0)
    return most_dispersed(mean, variance, number)


def most_dispersed(mean: Floats, variance: Floats, number: int) -> NDArray[np.int64]:
    """Return the most variable genes by mean and variance of their CP10K (G,), ascending; none with a mean of zero."""
    there = np.flatnonzero(mean > 0)
    if len(there) <= number:
        return there
    dispersion = np.log(np.maximum(variance[there] / mean[there], 1e-12))
    bins = pd.cut(np.log1p(mean[there]), DISPERSION_BINS, labels=False)
    groups = pd.Series(dispersion).groupby(bins)
    spread = groups.transform("std", ddof=1).to_numpy()
    middle = groups.transform("mean").to_numpy()
    alone = ~(spread > 0)  # a bin of one gene: it counts as one spread above nothing, as in Seurat
    score = np.where(alone, 1.0, (dispersion - middle) / np.where(alone, 1.0, spread))
    return np.sort(there[np.argsort(-score, kind="stable")[:number]])


def pca(
    x: sp.csr_matrix, *, components: int = COMPONENTS, genes: int = VARIABLE_GENES, seed: int = 0
) -> NDArray[np.float32]:
    """Return principal components of the variable genes, not scaled to unit variance.

    Parameters
    ----------
    x : (B, G)
        log1p(CP10K).
    components
        At most; fewer where there are not so many cells or genes.
    genes
        Variable genes used.
    seed
        Of the randomised decomposition.
    """
    dense = x[:, variable_genes(x, genes)].toarray()
    return fitted_pca(dense, components=components, seed=seed).transform(dense).astype(np.float32)


def fitted_pca(x: NDArray[np.float32], *, components: int = COMPONENTS, seed: int = 0) -> PCA:
    """Fit principal components (P at most) to dense cells (B, G); `seed` is of the randomised decomposition."""
    from sklearn.decomposition import PCA

    return PCA(min(components, len(x) - 1, x.shape[1]), svd_solver="randomized", random_state=seed).fit(x)
