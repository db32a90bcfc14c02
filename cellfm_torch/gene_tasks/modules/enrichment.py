"""Which gene sets a module has more genes of than chance gives it.

Shapes: M genes, S sets, C modules.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.analysis.markers import benjamini_hochberg
from cellfm_torch.data.gene_sets import GeneSets

COLUMNS = ["module", "set", "overlap", "module_genes", "set_genes", "expected", "fold", "p", "fdr", "genes"]


def enrichment(labels: NDArray[np.int64], sets: GeneSets, *, least_overlap: int = 2) -> pd.DataFrame:
    """Test each module against each set: hypergeometric, one-sided; the background is all genes that were clustered.

    Parameters
    ----------
    labels : (M,) int
        Module of each gene, -1 for none; those without a module are background too.
    sets
        Over the same M genes.
    least_overlap
        Pairs with fewer common genes are tested, and counted in the false discovery rate, but not listed.

    Returns
    -------
    DataFrame, sorted by module and p: ``module`` (number), ``set``, ``overlap``, ``module_genes``, ``set_genes``,
    ``expected``, ``fold``, ``p``, ``fdr`` (Benjamini-Hochberg over all modules and sets), ``genes`` (in common).
    """
    from scipy.stats import hypergeom

    number = int(labels.max(initial=-1)) + 1
    if not number:
        return pd.DataFrame(columns=COLUMNS)
    member = sets.matrix()
    inside = labels[:, None] == np.arange(number)
    overlap = inside.T.astype(np.int64) @ member.astype(np.int64)  # (C, S)
    module_genes, set_genes, total = inside.sum(0), member.sum(0), len(labels)
    p = hypergeom.sf(overlap - 1, total, set_genes[None], module_genes[:, None])
    fdr = benjamini_hochberg(p.ravel()).reshape(p.shape)
    expected = module_genes[:, None] * set_genes[None] / total
    names = list(sets)
    rows = []
    for i, j in zip(*np.nonzero(overlap >= least_overlap), strict=True):
        common = np.flatnonzero(inside[:, i] & member[:, j])
        rows.append(
            {
                "module": int(i),
                "set": names[j],
                "overlap": int(overlap[i, j]),
                "module_genes": int(module_genes[i]),
                "set_genes": int(set_genes[j]),
                "expected": float(expected[i, j]),
                "fold": float(overlap[i, j] / max(expected[i, j], 1e-12)),
                "p": float(p[i, j]),
                "fdr": float(fdr[i, j]),
                "genes": " ".join(sets.genes[int(k)] for k in common),
            }
        )
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["module", "p"], kind="stable", ignore_index=True)


def enriched_modules(table: pd.DataFrame, fdr: float) -> int:
    """Return how many modules have a set at a false discovery rate."""
    return int(table.loc[table["fdr"] <= fdr, "module"].nunique())
