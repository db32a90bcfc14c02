"""Modules of genes: clusters of an embedding at several resolutions, and how well they are found again.

Shapes: M genes, E width, S seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from cellfm_torch.analysis.graph import connectivities, leiden

Codes = NDArray[np.int64]

KEPT_EDGES = 0.8
"""Of the graph, drawn anew by each seed, for the second kind of stability."""

LEAST_MODULES = 3
"""Fewer say nothing: two halves are found again in any embedding."""


@dataclass(frozen=True)
class Modules:
    """Clusters of genes.

    Attributes
    ----------
    resolutions : DataFrame
        A row for each resolution: ``resolution``, ``modules`` (with enough genes), ``genes`` (in them),
        ``stability_seeds`` and ``stability_edges`` (mean adjusted Rand index between seeds; between draws of 80 % of
        the edges), ``stability`` (their mean).
    labels : dict of float to (M,) int arrays
        Module of each gene by resolution, 0 the largest, -1 for genes of clusters that are too small.
    graph : (M, M) CSR
        What was clustered.
    chosen : float or None
        The most stable resolution of those with three modules; None where there is none.
    """

    resolutions: pd.DataFrame
    labels: dict[float, Codes]
    graph: sp.csr_matrix
    chosen: float | None


def directions(x: NDArray[Any]) -> NDArray[np.float32]:
    """Return embeddings without their mean, of length 1: Euclidean distances are then those of the cosine, (M, E)."""
    centred = np.asarray(x, dtype=np.float64) - np.asarray(x, dtype=np.float64).mean(0)
    return (centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def find_modules(
    x: NDArray[Any],
    *,
    resolutions: Sequence[float],
    seeds: Sequence[int],
    neighbours: int = 15,
    least_genes: int = 10,
    say: Callable[[str], None] = lambda _: None,
) -> Modules:
    """Cluster genes by their nearest neighbours (Leiden) and measure how stable that is.

    Parameters
    ----------
    x : (M, E)
        Finite.
    resolutions
        Of the modularity.
    seeds
        Of the clustering and of the edges left out; two or more.
    neighbours
        Of the graph.
    least_genes
        Of a module.
    say
        Called after each clustering.
    """
    graph = connectivities(directions(x), neighbours)
    rows, labels = [], {}
    for resolution in resolutions:
        found, drawn = [], []
        for seed in seeds:
            found.append(leiden(graph, resolution=resolution, seed=seed))
            say(f"resolution {resolution:g}")
            drawn.append(leiden(_thinned(graph, seed), resolution=resolution, seed=seed))
            say(f"resolution {resolution:g}")
        stability = [_agreement(found).mean(), _agreement(drawn).mean()]
        typical = found[int(_agreement(found).sum(1).argmax())]  # the one most like the others
        sizes = np.bincount(typical)
        labels[resolution] = np.where(sizes[typical] >= least_genes, typical, -1)
        rows.append(
            {
                "resolution": resolution,
                "modules": int((sizes >= least_genes).sum()),
                "genes": int((labels[resolution] >= 0).sum()),
                "stability_seeds": stability[0],
                "stability_edges": stability[1],
                "stability": float(np.mean(stability)),
            }
        )
    table = pd.DataFrame(rows)
    enough = table[table["modules"] >= LEAST_MODULES]
    chosen = None if enough.empty else float(enough["resolution"][enough["stability"].idxmax()])
    return Modules(table, labels, graph, chosen)


def _agreement(found: Sequence[Codes]) -> NDArray[np.float64]:
    """Return the adjusted Rand index of each clustering with each other one, (S, S - 1)."""
    size = len(found)
    table = np.zeros((size, size))
    for i, j in combinations(range(size), 2):
        table[i, j] = table[j, i] = adjusted_rand_score(found[i], found[j])
    return table[~np.eye(size, dtype=bool)].reshape(size, size - 1)


def _thinned(graph: sp.csr_matrix, seed: int) -> sp.csr_matrix:
    upper = sp.triu(graph, k=1).tocoo()
    kept = np.random.default_rng([41, seed]).random(upper.nnz) < KEPT_EDGES
    half = sp.coo_matrix((upper.data[kept], (upper.row[kept], upper.col[kept])), shape=graph.shape).tocsr()
    return sp.csr_matrix(half + half.T)
