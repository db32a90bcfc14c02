"""Genes that tell a group of cells from others.

Shapes: B cells, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import moments

LEAST_CELLS = 3
"""Cells on each side below which no genes are ranked."""


def benjamini_hochberg(p: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Return adjusted p-values (false discovery rates), optionally with a weight for each hypothesis."""
    w = np.ones(len(p)) if weights is None else weights
    order = np.argsort(p, kind="stable")
    scaled = p[order] * w.sum() / np.cumsum(w[order])
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return adjusted


def rank_genes(
    x: sp.csr_matrix, group: NDArray[np.bool_], genes: Sequence[str], *, against: NDArray[np.bool_] | None = None
) -> pd.DataFrame:
    """Rank genes by Welch's t between a group of cells and others, highest in the group first.

    The same as ``scanpy.tl.rank_genes_groups(method="t-test")``.

    Parameters
    ----------
    x : (B, G)
        log1p(CP10K).
    group
        Cells of the group, (B,).
    genes
        Their names, (G,).
    against
        The others; by default all cells outside of the group.

    Returns
    -------
    DataFrame of G rows: ``gene``, ``t``, ``log2_fold`` (of means of CP10K), ``share`` and ``share_others`` (of cells
    that express it), ``p``, ``fdr`` (Benjamini-Hochberg); without rows where a side has fewer than three cells.
    """
    from scipy import stats

    others = ~group if against is None else against
    sides = [x[group], x[others]]
    if min(side.shape[0] for side in sides) < LEAST_CELLS:
        return pd.DataFrame(columns=["gene", "t", "log2_fold", "share", "share_others", "p", "fdr"])
    (mean, variance), (mean_others, variance_others) = map(moments, sides)
    number, number_others = (side.shape[0] for side in sides)
    with np.errstate(divide="ignore", invalid="ignore"):
        t, p = stats.ttest_ind_from_stats(
            mean, np.sqrt(variance), number, mean_others, np.sqrt(variance_others), number_others, equal_var=False
        )
    p = np.where(np.isfinite(p), p, 1.0)
    fold = np.log2((np.expm1(mean) + 1e-9) / (np.expm1(mean_others) + 1e-9))
    table = pd.DataFrame(
        {
            "gene": np.asarray(genes, dtype=object),
            "t": np.nan_to_num(t, nan=0.0),
            "log2_fold": fold,
            "share": sides[0].getnnz(0) / number,
            "share_others": sides[1].getnnz(0) / number_others,
            "p": p,
            "fdr": benjamini_hochberg(p),
        }
    )
    return table.sort_values("t", ascending=False, kind="stable", ignore_index=True)


def top_genes(
    x: sp.csr_matrix,
    group: NDArray[np.bool_],
    genes: Sequence[str],
    *,
    against: NDArray[np.bool_] | None = None,
    number: int = 5,
    fdr: float = 0.05,
) -> pd.DataFrame:
    """Return the first genes of :func:`rank_genes` that are higher in the group at a false discovery rate."""
    ranked = rank_genes(x, group, genes, against=against)
    return ranked[(ranked["t"] > 0) & (ranked["fdr"] <= fdr)].head(number)
