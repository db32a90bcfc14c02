"""Quality control of the cells of a store: counts, genes and mitochondrial share, kept as histograms.

Shapes: b cells of a block, G genes of the store, k bins of a histogram.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

COUNT_EDGES = np.arange(0, 7.01, 0.05)
"""log10 of the counts of a cell."""

GENE_EDGES = np.arange(0, 4.71, 0.05)
"""log10 of the expressed genes of a cell."""

MITO_EDGES = np.arange(0, 1.001, 0.01)
"""Share of a cell's counts in mitochondrial genes."""

EDGES = {"counts": COUNT_EDGES, "genes": GENE_EDGES, "mito": MITO_EDGES}


class Quality:
    """Sums over the cells of a source as they go by.

    Parameters
    ----------
    genes
        Symbols of the store, (G,).
    """

    def __init__(self, genes: tuple[str, ...]) -> None:
        self._mito = np.array([gene.startswith("MT-") for gene in genes])
        self._histograms = {name: np.zeros(len(edges) - 1, dtype=np.int64) for name, edges in EDGES.items()}
        self._sums = dict.fromkeys(EDGES, 0.0)
        self._cells = 0
        self._kept = self._read = 0.0

    def add(self, counts: sp.csr_matrix, totals: NDArray[np.float64]) -> None:
        """Take in cells: counts over the store's genes (b, G), and totals over all genes of the source (b,)."""
        kept = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        mito = np.asarray(counts[:, np.flatnonzero(self._mito)].sum(axis=1), dtype=np.float64).ravel()
        values = {
            "counts": totals,
            "genes": np.diff(counts.indptr).astype(np.float64),
            "mito": mito / np.maximum(totals, 1),
        }
        for name, numbers in values.items():
            scaled = numbers if name == "mito" else np.log10(np.maximum(numbers, 1))
            edges = EDGES[name]
            self._histograms[name] += np.histogram(np.clip(scaled, edges[0], edges[-1]), edges)[0]
            self._sums[name] += float(numbers.sum())
        self._cells += len(totals)
        self._kept += float(kept.sum())
        self._read += float(totals.sum())

    def summary(self) -> dict[str, Any]:
        """Return means, medians (to the width of a bin) and histograms, ready for JSON."""
        found: dict[str, Any] = {
            "counts_read": self._read,
            "counts_kept": self._kept,
            "mito_known": bool(self._mito.any()),
        }
        for name, histogram in self._histograms.items():
            found[name] = {
                "mean": round(self._sums[name] / max(self._cells, 1), 4),
                "median": round(quantile(name, histogram, 0.5), 4),
                "histogram": sparse(histogram),
            }
        return found


def sparse(histogram: NDArray[np.int64]) -> list[list[int]]:
    """Return the bins that are not empty, and their numbers."""
    bins = np.flatnonzero(histogram)
    return [bins.tolist(), histogram[bins].tolist()]


def dense(name: str, histogram: list[list[int]]) -> NDArray[np.int64]:
    """Undo :func:`sparse`, (k,)."""
    full = np.zeros(len(EDGES[name]) - 1, dtype=np.int64)
    full[histogram[0]] = histogram[1]
    return full


def quantile(name: str, histogram: NDArray[np.int64], share: float) -> float:
    """Return the value below which a share of the cells lies, linear within a bin."""
    edges, ends = EDGES[name], np.concatenate([[0], np.cumsum(histogram)])
    if not ends[-1]:
        return 0.0
    at = float(np.interp(share * ends[-1], ends, edges))
    return at if name == "mito" else float(10.0**at)
