"""How active a module is in a cell, and in groups of cells.

Shapes: n cells, M genes, C modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import moments


def module_activity(values: sp.csr_matrix, labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the mean over a module's genes of their z-scored log1p(CP10K), (n, C).

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
    weights = inside * scale[:, None] / np.maximum(inside.sum(0), 1)
    # z-scores have no zeros: the mean is taken away from the sum, not from each gene.
    return np.asarray(values.astype(np.float64) @ weights - mean @ weights, dtype=np.float32)


def group_activity(activity: NDArray[Any], groups: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """Return the mean activity of each module (row) in the cells of each group (column)."""
    table = pd.DataFrame(np.asarray(activity, dtype=np.float64), columns=list(names))
    return table.groupby(np.asarray(groups, dtype=object)).mean().T.rename_axis(index="module", columns=None)
