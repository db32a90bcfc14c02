"""Counts as every baseline sees them: log1p(CP10K), variable genes, principal components.

Shapes: B cells, G genes, P components.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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


def variable_genes(x: sp.csr_matrix, number: int = 2000) -> NDArray[np.int64]:
    """Return the columns whose log1p(CP10K) varies most, ascending; all where there are not so many."""
    variance = moments(x)[1]
    return np.sort(np.argsort(-variance, kind="stable")[: min(number, int((variance > 0).sum()))])


def pca(x: sp.csr_matrix, *, components: int = 50, genes: int = 2000, seed: int = 0) -> NDArray[np.float32]:
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
    from sklearn.decomposition import PCA

    dense = x[:, variable_genes(x, genes)].toarray()
    fitted = PCA(min(components, *(np.array(dense.shape) - 1)), svd_solver="randomized", random_state=seed)
    return fitted.fit_transform(dense).astype(np.float32)
