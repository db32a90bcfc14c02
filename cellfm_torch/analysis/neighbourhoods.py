"""Overlapping neighbourhoods of cells, laid around some of them as Milo lays them (Nat. Biotechnol. 40, 2022).

Shapes: B cells, C width of the embedding, H neighbourhoods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.analysis.graph import nearest_neighbours
from cellfm_torch.errors import UserError


@dataclass(frozen=True)
class Neighbourhoods:
    """Overlapping groups of neighbouring cells.

    Attributes
    ----------
    index : (H,)
        Row of the cell in the middle of each.
    members : (H, B)
        CSR matrix of ones: which cells belong to it.
    radius : (H,)
        Distance of the farthest member.
    """

    index: NDArray[np.int64]
    members: sp.csr_matrix
    radius: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.index)


def neighbourhoods(embedding: Any, *, k: int = 30, share: float = 0.1, seed: int = 0) -> Neighbourhoods:
    """Lay neighbourhoods of k + 1 cells around sampled cells.

    Parameters
    ----------
    embedding : (B, C)
    k
        Nearest neighbours; five times the number of samples or more, or counts are too small to tell anything.
    share
        Of the cells that are sampled. Each sampled cell is replaced by that of its neighbours nearest to their median,
        so that fewer neighbourhoods cover more cells.
    seed
        Of the sample.

    Raises
    ------
    UserError
        If an option is out of its range.
    """
    x = np.asarray(embedding, dtype=np.float64)
    if not 5 <= k < len(x):
        raise UserError(f"k={k}: must be at least 5 and below the number of cells with an embedding, {len(x):,}")
    if not 0 < share <= 1:
        raise UserError(f"share={share}: must be above 0 and at most 1")
    near, distances = nearest_neighbours(x, k, seed=seed)
    rng = np.random.default_rng(seed)
    sampled = rng.choice(len(x), max(1, round(share * len(x))), replace=False)
    middles = np.median(x[near[sampled]], axis=1, keepdims=True)
    closest = np.linalg.norm(x[near[sampled]] - middles, axis=2).argmin(1)
    index = np.unique(near[sampled, closest])
    columns = np.hstack([index[:, None], near[index]])
    rows = np.repeat(np.arange(len(index)), k + 1)
    members = sp.csr_matrix((np.ones(columns.size), (rows, columns.ravel())), shape=(len(index), len(x)))
    return Neighbourhoods(index, members, distances[index, -1])
