"""Quality control of the cells of a store: counts, genes and mitochondrial share, kept as histograms.

Shapes: b cells of a block, G genes of the store, k bins of a histogram.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

COUNT_EDGES = np.arange(0, 7.01, 0.05)
"""log10 of the counts of a cell."""

GENE_EDGES = np.arange(0, 5.01, 0.05)
"""log10 of the expressed genes of a cell."""

MITO_EDGES = np.arange(0, 100.1, 0.5)
"""Share of a cell's counts in mitochondrial genes, in per cent."""

EDGES = {"counts": COUNT_EDGES, "genes": GENE_EDGES, "mito": MITO_EDGES}
COLUMNS = {"counts": "total_counts", "genes": "n_genes_by_counts", "mito": "pct_counts_mt"}
"""Names that scanpy gives to these numbers."""


class Quality:
    """Sums over the cells of a source as they go by."""

    def __init__(self) -> None:
        self._histograms = {name: np.zeros(len(edges) - 1, dtype=np.int64) for name, edges in EDGES.items()}
        self._sums = dict.fromkeys(EDGES, 0.0)
        self._cells = 0
        self._kept = 0.0

    def add(self, quality: pd.DataFrame, counts: sp.csr_matrix) -> None:
        """Take in cells: what scanpy would say of them (b rows), and their counts over the store's genes (b, G)."""
        for name, column in COLUMNS.items():
            numbers = quality[column].to_numpy(dtype=np.float64)
            scaled = numbers if name == "mito" else np.log10(np.maximum(numbers, 1))
            edges = EDGES[name]
            self._histograms[name] += np.histogram(np.clip(scaled, edges[0], edges[-1]), edges)[0]
            self._sums[name] += float(numbers.sum())
        self._cells += len(quality)
        self._kept += float(counts.sum(dtype=np.float64))

    def summary(self) -> dict[str, Any]:
        """Return means, medians (to the width of a bin) and histograms, ready for JSON."""
        found: dict[str, Any] = {"counts_read": self._sums["counts"], "counts_kept": self._kept}
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
    """Return the value below which a share of the cells lies, linear within a bin; the first one counts as its edge."""
    edges, ends = EDGES[name], np.concatenate([[0], np.cumsum(histogram)])
    if not ends[-1]:
        return 0.0
    at = float(edges[0] if share * ends[-1] <= histogram[0] else np.interp(share * ends[-1], ends, edges))
    return at if name == "mito" else float(10.0**at)
