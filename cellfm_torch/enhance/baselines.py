"""What enhanced expression is compared with.

Shapes: n cells, g genes, k neighbours.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import log_normalised, pca
from cellfm_torch.analysis.graph import nearest_neighbours

Floats = NDArray[np.float32]

NEIGHBOURS = 15


def as_it_is(counts: sp.csr_matrix) -> Floats:
    """Return log1p(CP10K) of the cells as they are, (n, g)."""
    return np.asarray(log_normalised(counts).toarray())


def pooled_neighbours(counts: sp.csr_matrix, *, k: int = NEIGHBOURS, seed: int = 0) -> Floats:
    """Return log1p(CP10K) of the counts of each cell and its nearest ones together, (n, g).

    Neighbours are by 50 principal components of the cells as they are.
    """
    return np.asarray(log_normalised(_averages(counts, k, seed) @ counts).toarray())


def mean_of_neighbours(counts: sp.csr_matrix, *, k: int = NEIGHBOURS, seed: int = 0) -> Floats:
    """Return the mean of log1p(CP10K) over each cell and its nearest ones, (n, g): smoothing as in MAGIC, one step.

    Source: van Dijk et al., Cell 174, 716 (2018), with k equal neighbours for the diffusion.
    """
    return np.asarray((_averages(counts, k, seed) @ log_normalised(counts)).toarray(), dtype=np.float32)


def mean_of_others(reference: sp.csr_matrix, cells: int) -> Floats:
    """Return the mean log1p(CP10K) of other cells at full depth, the same for each of n cells, (n, g)."""
    mean = np.asarray(log_normalised(reference).mean(0), dtype=np.float32)
    return np.repeat(mean.reshape(1, -1), cells, axis=0)


def _averages(counts: sp.csr_matrix, k: int, seed: int) -> sp.csr_matrix:
    """Return the matrix (n, n) that takes the mean over each cell and its k - 1 nearest ones."""
    number = counts.shape[0]
    space = pca(log_normalised(counts), seed=seed)
    indices, _ = nearest_neighbours(space, k - 1, seed=seed)
    rows = np.repeat(np.arange(number), indices.shape[1] + 1)
    columns = np.concatenate([np.arange(number)[:, None], indices], axis=1).ravel()
    share = np.full(len(rows), 1 / (indices.shape[1] + 1))
    return sp.csr_matrix((share, (rows, columns)), shape=(number, number))
