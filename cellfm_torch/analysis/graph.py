"""The graph of nearest neighbours of an embedding, and its clusters.

Shapes: B cells, C width of the embedding, k neighbours.
"""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

MOST_EXACT = 20_000
"""Cells up to which neighbours are exact; beyond, approximate ones by nearest-neighbour descent."""


def nearest_neighbours(embedding: Any, k: int, *, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the k nearest other cells of each cell and their Euclidean distances, nearest first.

    Parameters
    ----------
    embedding : (B, C)
        Finite.
    k
        Fewer where there are not so many cells.
    seed
        Of the approximate search.

    Returns
    -------
    indices : (B, k)
    distances : (B, k)
    """
    x = np.ascontiguousarray(embedding, dtype=np.float32)
    k = min(k, len(x) - 1)
    if len(x) <= MOST_EXACT:
        from sklearn.neighbors import NearestNeighbors

        distances, indices = NearestNeighbors(n_neighbors=k).fit(x).kneighbors()
        return indices.astype(np.int64), distances.astype(np.float64)
    from pynndescent import NNDescent

    indices, distances = NNDescent(x, n_neighbors=k + 1, random_state=seed).neighbor_graph
    # The cell itself comes first, but for cells that are equal to others.
    itself = indices == np.arange(len(x))[:, None]
    itself[~itself.any(1), -1] = True
    kept = ~itself
    return indices[kept].reshape(len(x), k).astype(np.int64), distances[kept].reshape(len(x), k).astype(np.float64)


def neighbours_and_itself(embedding: Any, k: int, *, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return what umap-learn calls the k nearest neighbours: the cell itself and the k - 1 others nearest to it.

    umap-learn's own search calls a Python function for each pair of fewer than 4,096 cells, and compiles for eight
    seconds before it. The arguments, and the shapes of what is returned, are those of :func:`nearest_neighbours`.
    """
    indices, distances = nearest_neighbours(embedding, k - 1, seed=seed)
    itself = np.arange(len(indices))[:, None]
    near = np.hstack([np.zeros_like(itself), distances]).astype(np.float32)
    return np.hstack([itself, indices]), near


def connectivities(embedding: Any, k: int = 15, *, seed: int = 0) -> sp.csr_matrix:
    """Return the symmetric weights (B, B) that UMAP and scanpy give to the k nearest neighbours, between 0 and 1."""
    indices, distances = neighbours_and_itself(embedding, k, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap.umap_ import fuzzy_simplicial_set

        graph = fuzzy_simplicial_set(
            np.asarray(embedding, dtype=np.float32),
            indices.shape[1],
            np.random.RandomState(seed),
            "euclidean",
            knn_indices=indices,
            knn_dists=distances,
        )[0]
    return sp.csr_matrix(graph)


def leiden(graph: sp.csr_matrix, *, resolution: float = 1.0, seed: int = 0) -> NDArray[np.int64]:
    """Cluster a weighted graph by modularity (Leiden algorithm, two iterations); the largest cluster is 0.

    Parameters
    ----------
    graph : (B, B)
        Symmetric.
    resolution
        Higher for more clusters.
    seed
        The same seed gives the same clusters.
    """
    import igraph

    upper = sp.triu(graph, k=1).tocoo()
    edges = np.stack([upper.row, upper.col], axis=1)
    weighted = igraph.Graph(n=graph.shape[0], edges=edges, edge_attrs={"weight": upper.data})
    igraph.set_random_number_generator(random.Random(seed))
    try:
        found = weighted.community_leiden("modularity", weights="weight", resolution=resolution, n_iterations=2)
    finally:
        igraph.set_random_number_generator(random)  # igraph's default
    codes = np.asarray(found.membership, dtype=np.int64)
    order = np.argsort(-np.bincount(codes), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[codes]
