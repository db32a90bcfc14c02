"""Quality of cells, under the names and with the meaning that scanpy's ``calculate_qc_metrics`` has.

Shapes: n cells, V genes of a file.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.data.options import ReadOptions

GENES, COUNTS, MITO = QUALITY = ("n_genes_by_counts", "total_counts", "pct_counts_mt")
"""Columns of ``obs``: expressed genes, counts, and per cent of the counts in mitochondrial genes."""


def measure(counts: sp.csr_matrix, mito: NDArray[np.bool_]) -> pd.DataFrame:
    """Return the quality of cells, n rows; an empty cell has 0 % of its counts in mitochondrial genes.

    Parameters
    ----------
    counts : (n, V)
        Over all genes of the file, without stored zeros.
    mito : (V,)
        Which are mitochondrial.
    """
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    weights = np.where(mito[counts.indices], counts.data, 0).astype(np.float64)
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    in_mito = np.bincount(rows, weights=weights, minlength=counts.shape[0])
    share = 100 * in_mito / np.where(totals > 0, totals, 1)
    return pd.DataFrame({GENES: np.diff(counts.indptr).astype(np.int64), COUNTS: totals, MITO: share})


def annotated(obs: pd.DataFrame, quality: list[pd.DataFrame]) -> pd.DataFrame:
    """Return annotations of cells (n rows) with the columns of their quality that they do not have themselves."""
    obs, measured = obs.copy(), pd.concat(quality)
    for column in measured.columns.difference(obs.columns, sort=False):
        obs[column] = measured[column].to_numpy()
    return obs


def why_dropped(
    expressed: NDArray[np.integer], quality: pd.DataFrame, options: ReadOptions
) -> dict[str, NDArray[np.bool_]]:
    """Reasons for dropping cells, each with the cells (n,) it holds for; a cell has at most one.

    With ``min_genes=0``, cells without counts stay too.

    Parameters
    ----------
    expressed : (n,)
        Genes of the vocabulary that a cell expresses.
    """
    limits = {
        "without counts in the vocabulary": (expressed == 0) & (options.min_genes > 0),
        f"with fewer than {options.min_genes:,} genes": expressed < options.min_genes,
    }
    if options.max_genes is not None:
        limits[f"with more than {options.max_genes:,} genes"] = expressed > options.max_genes
    if options.min_counts is not None:
        limits[f"with fewer than {options.min_counts:,} counts"] = (quality[COUNTS] < options.min_counts).to_numpy()
    if options.max_counts is not None:
        limits[f"with more than {options.max_counts:,} counts"] = (quality[COUNTS] > options.max_counts).to_numpy()
    if options.max_mito is not None:
        limits[f"with more than {options.max_mito:g} % mitochondrial"] = (quality[MITO] > options.max_mito).to_numpy()
    reasons, earlier = {}, np.zeros(len(expressed), dtype=bool)
    for reason, cells in limits.items():
        reasons[reason] = cells & ~earlier
        earlier = earlier | cells
    return reasons
