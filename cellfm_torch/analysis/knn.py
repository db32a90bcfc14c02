"""Nearest labelled neighbours: the class of a cell by those of the reference cells it lies closest to.

Shapes: n reference cells, m cells asked about, E width, C classes, k neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

Floats = NDArray[np.floating[Any]]


class NearestCells:
    """Votes of the nearest reference cells by the cosine between embeddings, both centred on the reference's mean.

    Nothing is trained. Neighbours weigh between 1 and 0.37: exp(-(d / d_k)^2), with d_k the distance of the furthest of
    them, so that of two classes with as many votes the nearer one wins.

    Parameters
    ----------
    embeddings : (n, E)
        Of the reference.
    codes : (n,) int
        Class of each, 0 .. C - 1.
    num_classes
        C.
    k
        Neighbours; fewer where the reference has fewer cells.
    """

    def __init__(self, embeddings: Floats, codes: NDArray[np.integer[Any]], *, num_classes: int, k: int = 15) -> None:
        self.embeddings = np.asarray(embeddings, dtype=np.float32)
        self.codes = np.asarray(codes, dtype=np.int64)
        self.num_classes = num_classes
        self.k = k
        self._mean = self.embeddings.mean(0, dtype=np.float64)
        self._index = NearestNeighbors(n_neighbors=min(k, len(self.codes))).fit(self._directions(self.embeddings))

    def probabilities(self, embeddings: Floats) -> NDArray[np.float64]:
        """Return the share of the votes of each class, (m, C)."""
        distances, rows = self._index.kneighbors(self._directions(embeddings))  # (m, k)
        furthest = np.maximum(distances[:, -1:], 1e-12)
        votes = np.exp(-np.square(distances / furthest))
        shares = np.zeros((len(votes), self.num_classes))
        np.add.at(shares, (np.arange(len(votes))[:, None], self.codes[rows]), votes)
        return shares / shares.sum(1, keepdims=True)

    def _directions(self, embeddings: Floats) -> NDArray[np.float64]:
        centred = np.asarray(embeddings, dtype=np.float64) - self._mean
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return what :meth:`from_tensors` needs."""
        return {"embeddings": self.embeddings, "codes": self.codes, "k": np.array(self.k)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[Any]], *, num_classes: int) -> NearestCells:
        """Return what was saved."""
        return cls(tensors["embeddings"], tensors["codes"], num_classes=num_classes, k=int(tensors["k"]))
