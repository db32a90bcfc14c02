"""Graphs of genes: which ones share gene sets, and which ones cells express together.

Shapes: V genes of the vocabulary, S genes that send, E neighbours of each gene at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.data.gene_sets import GeneSets

NEIGHBOURS = 10
LEAST_CORRELATION = 0.1
"""Below, correlations over a few hundred cells are noise."""

BLOCK = 2048
"""Genes worked on at once."""


@dataclass(frozen=True)
class Neighbours:
    """The strongest neighbours of each gene.

    Attributes
    ----------
    rows : (V, E) int64
        Among those that send; -1 for none.
    weights : (V, E) float32
    """

    rows: NDArray[np.int64]
    weights: NDArray[np.float32]


def shared_sets(sets: GeneSets, senders: NDArray[np.int64], *, neighbours: int = NEIGHBOURS) -> Neighbours:
    """Return neighbours by gene sets: the share of their sets that two genes have in common (Jaccard index).

    Parameters
    ----------
    sets
        Over the vocabulary, such as GO terms.
    senders : (S,)
        Positions of genes in the vocabulary.
    neighbours
        E.
    """
    number = len(sets.genes)
    rows = np.concatenate([members for members in sets.rows.values()]) if len(sets) else np.zeros(0, dtype=np.int64)
    columns = np.repeat(np.arange(len(sets)), [len(members) for members in sets.rows.values()])
    has = sp.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(number, max(len(sets), 1)))
    sizes = np.asarray(has.sum(1)).ravel()

    def similarity(part: NDArray[np.int64]) -> NDArray[np.float32]:
        both = (has[part] @ has[senders].T).toarray()
        either = sizes[part][:, None] + sizes[senders][None] - both
        return np.asarray(both / np.maximum(either, 1), dtype=np.float32)

    return _strongest(number, senders, similarity, least=0.0, neighbours=neighbours)


def co_expressed(x: sp.csr_matrix, senders: NDArray[np.int64], *, neighbours: int = NEIGHBOURS) -> Neighbours:
    """Return neighbours by co-expression: Pearson's correlation over cells, where it is positive.

    Parameters
    ----------
    x : (cells, V)
        log1p(CP10K) of control cells.
    senders : (S,)
        Positions of genes in the vocabulary.
    neighbours
        E.
    """
    x = x.astype(np.float64).tocsc()
    cells = x.shape[0]
    mean = np.asarray(x.mean(0)).ravel()
    spread = np.sqrt(np.maximum(np.asarray(x.multiply(x).mean(0)).ravel() - mean**2, 0))
    sending = x[:, senders].toarray()

    def similarity(part: NDArray[np.int64]) -> NDArray[np.float32]:
        covariance = x[:, part].T @ sending / cells - np.outer(mean[part], mean[senders])
        scale = np.outer(spread[part], spread[senders])
        return np.asarray(np.where(scale > 0, covariance / np.maximum(scale, 1e-12), 0), dtype=np.float32)

    return _strongest(x.shape[1], senders, similarity, least=LEAST_CORRELATION, neighbours=neighbours)


def _strongest(
    number: int, senders: NDArray[np.int64], similarity: object, *, least: float, neighbours: int
) -> Neighbours:
    """Return the strongest neighbours of each gene, itself left out."""
    count = min(neighbours, max(len(senders), 1))
    rows = np.full((number, count), -1, dtype=np.int64)
    weights = np.zeros((number, count), dtype=np.float32)
    if not len(senders):
        return Neighbours(rows, weights)
    place = np.full(number, -1)
    place[senders] = np.arange(len(senders))
    for first in range(0, number, BLOCK):
        part = np.arange(first, min(first + BLOCK, number))
        found = similarity(part)  # type: ignore[operator]
        own = np.flatnonzero(place[part] >= 0)
        found[own, place[part][own]] = 0
        best = np.argsort(-found, axis=1, kind="stable")[:, :count]
        value = np.take_along_axis(found, best, axis=1)
        there = value > least
        rows[part] = np.where(there, best, -1)
        weights[part] = np.where(there, value, 0)
    return Neighbours(rows, weights)
