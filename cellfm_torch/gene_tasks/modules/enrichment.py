"""Which gene sets a module has more genes of than chance gives it.

Shapes: M genes, S sets, C modules.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import gammaln

from cellfm_torch.analysis.markers import benjamini_hochberg
from cellfm_torch.data.gene_sets import GeneSets

COLUMNS = ["module", "set", "overlap", "module_genes", "set_genes", "expected", "fold", "p", "fdr", "genes"]


class Tested(NamedTuple):
    """Each module against each set."""

    overlap: NDArray[np.int64]
    """(C, S)"""
    module_genes: NDArray[np.int64]
    """(C,)"""
    set_genes: NDArray[np.int64]
    """(S,)"""
    p: NDArray[np.float64]
    """(C, S)"""
    fdr: NDArray[np.float64]
    """(C, S), Benjamini-Hochberg over all modules and sets."""


def tested_sets(labels: NDArray[np.int64], sets: GeneSets) -> Tested:
    """Test each module against each set: hypergeometric, one-sided; the background is all genes that were clustered.

    Parameters
    ----------
    labels : (M,) int
        Module of each gene, -1 for none; those without a module are background too.
    sets
        Over the same M genes.
    """
    number = int(labels.max(initial=-1)) + 1
    sizes = np.array([len(rows) for rows in sets.rows.values()])
    members = np.concatenate(list(sets.rows.values()))
    member = sp.csr_matrix((np.ones(len(members)), (np.repeat(np.arange(len(sizes)), sizes), members)))
    inside = np.flatnonzero(labels >= 0)
    ones, shape = np.ones(len(inside)), (max(len(labels), member.shape[1]), number)
    own = sp.csr_matrix((ones, (inside, labels[inside])), shape=shape)
    overlap = np.asarray((member @ own[: member.shape[1]]).toarray().T, dtype=np.int64)
    module_genes = np.bincount(labels[inside], minlength=number)
    p = upper_tail(overlap, len(labels), module_genes[:, None], sizes[None])
    return Tested(overlap, module_genes, sizes, p, benjamini_hochberg(p.ravel()).reshape(p.shape))


def upper_tail(overlap: NDArray[Any], total: int, drawn: NDArray[Any], good: NDArray[Any]) -> NDArray[np.float64]:
    """Return how probable so many good ones or more are among those drawn from all, without replacement.

    The same as scipy's ``hypergeom.sf(overlap - 1, ...)``, which takes one pair after the other.
    """
    k, n, m = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (overlap, drawn, good)))

    def choose(a: Any, b: Any) -> Any:
        return gammaln(a + 1) - gammaln(b + 1) - gammaln(a - b + 1)

    term = np.exp(choose(m, k) + choose(total - m, n - k) - choose(float(total), n))
    tail, k = term.copy(), k.copy()
    most = int(np.minimum(n, m).max(initial=0) - k.min(initial=0))
    for _ in range(most):
        # Probability of one more by that of this many; 0 once all good ones, or all drawn, are used.
        term = term * (m - k) * (n - k) / ((k + 1) * np.maximum(total - m - n + k + 1, 1))
        tail += term
        k += 1
        if not (term > 1e-17 * tail).any():
            break
    return np.where(np.asarray(overlap) <= 0, 1.0, np.minimum(tail, 1.0))


def enrichment(labels: NDArray[np.int64], sets: GeneSets, *, least_overlap: int = 2) -> pd.DataFrame:
    """Return what :func:`tested_sets` finds as a table.

    Parameters
    ----------
    labels, sets
        See there.
    least_overlap
        Pairs with fewer common genes are tested, and counted in the false discovery rate, but not listed.

    Returns
    -------
    DataFrame, sorted by module and p: ``module`` (number), ``set``, ``overlap``, ``module_genes``, ``set_genes``,
    ``expected``, ``fold``, ``p``, ``fdr``, ``genes`` (in common).
    """
    tested = tested_sets(labels, sets)
    expected = tested.module_genes[:, None] * tested.set_genes[None] / len(labels)
    names, members = list(sets), list(sets.rows.values())
    i, j = np.nonzero(tested.overlap >= least_overlap)
    common = (members[b][labels[members[b]] == a] for a, b in zip(i, j, strict=True))
    overlap, chance = tested.overlap[i, j], expected[i, j]
    table = pd.DataFrame(
        {
            "module": i,
            "set": [names[b] for b in j],
            "overlap": overlap,
            "module_genes": tested.module_genes[i],
            "set_genes": tested.set_genes[j],
            "expected": chance,
            "fold": overlap / np.maximum(chance, 1e-12),
            "p": tested.p[i, j],
            "fdr": tested.fdr[i, j],
            "genes": [" ".join(sets.genes[int(row)] for row in rows) for rows in common],
        },
        columns=COLUMNS,
    )
    return table.sort_values(["module", "p"], kind="stable", ignore_index=True)


def enriched_modules(labels: NDArray[np.int64], sets: GeneSets, fdr: float) -> int:
    """Return how many modules have a set at a false discovery rate."""
    tested = tested_sets(labels, sets)
    return int(((tested.fdr <= fdr) & (tested.overlap > 0)).any(1).sum())
