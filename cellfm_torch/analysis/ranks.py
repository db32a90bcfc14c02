"""Rank tests of one group of cells against the rest, for all columns of a sparse matrix at once.

Shapes: B cells, G genes, C groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.stats import norm

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RankTest:
    """Wilcoxon's rank-sum test (Mann and Whitney's U), two-sided, normal approximation with correction for ties.

    Attributes
    ----------
    auc : (C, G)
        Probability that a cell of the group has more than a cell of the rest, ties half; 0.5 is no difference. NaN
        where a side has no cell.
    z : (C, G)
        Standardised U; 0 where nothing differs.
    p : (C, G)
        1 where it cannot be tested.
    """

    auc: Floats
    z: Floats
    p: Floats


def rank_sums(x: sp.spmatrix, codes: NDArray[np.integer], groups: int, *, stored_only: bool = False) -> RankTest:
    """Compare each group with all other cells, column by column.

    The same numbers as ``scanpy.tl.rank_genes_groups(method="wilcoxon", tie_correct=True)`` gives as scores.

    Parameters
    ----------
    x : (B, G)
        Sparse, nothing negative; what is not stored is 0, the least.
    codes : (B,)
        Group of each cell, -1 for one that takes no part.
    groups
        C.
    stored_only
        Of each column only cells with a stored value take part.
    """
    part = codes >= 0
    columns = sp.csc_matrix(x)[np.flatnonzero(part)] if not part.all() else sp.csc_matrix(x)
    codes = np.asarray(codes[part], dtype=np.int64)
    sizes = np.bincount(codes, minlength=groups).astype(np.float64)
    genes = columns.shape[1]
    auc, z = np.full((groups, genes), np.nan), np.zeros((groups, genes))
    for gene in range(genes):
        held = slice(columns.indptr[gene], columns.indptr[gene + 1])
        values, of = columns.data[held], codes[columns.indices[held]]
        stored = np.bincount(of, minlength=groups).astype(np.float64)
        zeros = np.zeros(groups) if stored_only else sizes - stored
        inside = zeros + stored
        total, outside = inside.sum(), inside.sum() - inside
        rank, ties = _ranks(values, int(zeros.sum()))
        sums = np.bincount(of, rank, minlength=groups) + zeros * (zeros.sum() + 1) / 2
        u = sums - inside * (inside + 1) / 2
        there = (inside > 0) & (outside > 0)
        if not there.any():
            continue
        pairs = np.where(there, inside * outside, 1)
        auc[there, gene] = (u / pairs)[there]
        variance = pairs / 12 * (total + 1 - ties / max(total * (total - 1), 1))
        tested = there & (variance > 1e-12)
        z[tested, gene] = ((u - pairs / 2)[tested]) / np.sqrt(variance[tested])
    return RankTest(auc, z, 2 * norm.sf(np.abs(z)))


def _ranks(values: Floats, zeros: int) -> tuple[Floats, float]:
    """Return ranks of positive values among themselves and so many zeros, and the sum of t^3 - t over ties."""
    if not len(values):
        return np.zeros(0), float(zeros**3 - zeros)
    _, which, number = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(number)
    rank = zeros + (last - (number - 1) / 2)[which]
    number = number.astype(np.float64)
    return rank, float((number**3 - number).sum() + float(zeros) ** 3 - zeros)
