"""How active a module is in a cell, and in groups of cells.

Shapes: n cells, M genes, C modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import moments
from cellfm_torch.gene_tasks.cells import LEAST_CELLS


def module_activity(values: sp.csr_matrix, labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return how much more active a module is in a cell than the cell's genes are on the whole, (n, C).

    The mean over a module's genes of their z-scored log1p(CP10K), minus the same over the genes of all modules: without
    it, cells in which more genes are seen would be higher in every module. As scanpy's score_genes, with all
    modules for the reference.

    Parameters
    ----------
    values : (n, M)
        log1p(CP10K).
    labels : (M,) int
        Module of each gene, -1 for none.
    """
    mean, variance = moments(values)
    scale = np.where(variance > 0, 1 / np.sqrt(np.where(variance > 0, variance, 1)), 0)  # no variance: z is 0
    inside = labels[:, None] == np.arange(int(labels.max(initial=-1)) + 1)
    share = inside / np.maximum(inside.sum(0), 1) - inside.any(1)[:, None] / max(int(inside.any(1).sum()), 1)
    weights = share * scale[:, None]
    # z-scores have no zeros: the mean is taken away from the sum, not from each gene.
    return np.asarray(values.astype(np.float64) @ weights - mean @ weights, dtype=np.float32)


def large_groups(groups: Iterable[str | None]) -> NDArray[np.bool_]:
    """Return which cells are in a group of enough cells for a mean, (n,); of all groups where none is."""
    given = pd.Series(list(groups), dtype=object)
    there = given.notna().to_numpy()
    large = there & (given.map(given.value_counts()).fillna(0) >= LEAST_CELLS).to_numpy()
    return np.asarray(large if large.any() else there)


def group_activity(activity: NDArray[Any], groups: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """Return the mean activity of each module (row) in the cells of each group (column)."""
    table = pd.DataFrame(np.asarray(activity, dtype=np.float64), columns=list(names))
    return table.groupby(np.asarray(groups, dtype=object)).mean().T.rename_axis(index="module", columns=None)
