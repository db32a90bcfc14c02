"""Groups of cells worth a look: clusters of those that no known type fits.

Shapes: B cells, C width of the embedding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.analysis.graph import connectivities, leiden

LEAST_TO_CLUSTER = 20
"""Cells below which they are one cluster."""


def cluster_cells(
    embedding: Any, chosen: NDArray[np.bool_], *, resolution: float = 0.5, seed: int = 0
) -> NDArray[np.int64]:
    """Cluster the chosen cells by themselves (Leiden, 15 neighbours on the embedding).

    Parameters
    ----------
    embedding : (B, C)
    chosen
        Which cells, (B,); their embeddings must be finite.
    resolution
        Higher for more clusters.
    seed
        Of the clustering.

    Returns
    -------
    (B,) number of the cluster, the largest 0, and -1 for cells that were not chosen.
    """
    codes = np.full(len(chosen), -1, dtype=np.int64)
    number = int(chosen.sum())
    if number < LEAST_TO_CLUSTER:
        codes[chosen] = 0
        return codes
    graph = connectivities(np.asarray(embedding)[chosen], min(15, number - 1), seed=seed)
    codes[chosen] = leiden(graph, resolution=resolution, seed=seed)
    return codes


def stratified_sample(groups: NDArray[Any], most: int, *, least: int = 200, seed: int = 0) -> NDArray[np.int64]:
    """Draw at most about `most` rows, ascending: all of small groups, of the others in proportion.

    Parameters
    ----------
    groups : (B,)
        Group of each row.
    most
        All rows where there are no more.
    least
        Rows kept of every group, where it has so many.
    seed
        Of the draw.
    """
    if len(groups) <= most:
        return np.arange(len(groups))
    rng = np.random.default_rng(seed)
    drawn = []
    for group in np.unique(groups.astype(str)):
        rows = np.flatnonzero(groups.astype(str) == group)
        number = min(len(rows), max(least, int(len(rows) * most / len(groups))))
        drawn.append(rng.choice(rows, number, replace=False))
    return np.sort(np.concatenate(drawn))
