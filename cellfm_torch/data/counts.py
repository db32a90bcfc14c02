"""Operations on the count matrix of a file: checks, recovery from log-normalised values, vocabulary, rescale.

Shapes: C cells of the file, V genes (variables) of the file, G genes of the vocabulary.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.data.genes import GeneMatch
from cellfm_torch.errors import shortened

MOST_COUNTS = 1e5
"""Cells with more counts than this are scaled down to it (published recipe)."""

FINE = 1e8
MOST_LOG = 20.0
"""Largest log1p of a scaled count: 5e8."""

WHOLE = 1e-2
"""Largest relative distance of a recovered count from a whole number; float32 noise stays below 1e-4."""


def to_csr(matrix: object) -> sp.csr_matrix:
    """Return a dense, CSR or CSC matrix (C, V) as CSR, entries in gene order and without stored zeros."""
    csr = sp.csr_matrix(matrix)
    csr.sum_duplicates()
    csr.eliminate_zeros()
    return csr


def is_whole(values: NDArray[np.generic]) -> bool:
    """Whether every value is a whole number."""
    return bool(np.issubdtype(values.dtype, np.integer) or np.array_equal(values, np.rint(values)))


def locate(matrix: sp.csr_matrix, entry: int) -> tuple[int, int]:
    """Return the (row, column) of a stored entry."""
    return int(np.searchsorted(matrix.indptr, entry, side="right")) - 1, int(matrix.indices[entry])


def recover_counts(matrix: sp.csr_matrix) -> tuple[sp.csr_matrix, NDArray[np.float64]]:
    """Undo log1p and the scaling to a common depth: expm1, then division by each cell's smallest positive value.

    A cell's smallest count is nearly always 1, so its smallest value is what one count became.

    Returns
    -------
    counts : (C, V) float64
        Whole numbers.
    error : (C,) float64
        Largest relative distance of a value from the whole number it was rounded to; infinite where values are too
        large to be logarithms.
    """
    with np.errstate(over="ignore"):
        scaled = np.expm1(matrix.data.astype(np.float64))
    lengths = np.diff(matrix.indptr)
    filled = np.flatnonzero(lengths)
    starts = matrix.indptr[filled]
    error = np.zeros(len(lengths))
    if len(filled):
        with np.errstate(invalid="ignore"):
            scaled /= np.repeat(np.minimum.reduceat(scaled, starts), lengths[filled])
            distance = np.abs(scaled - np.rint(scaled)) / scaled
        error[filled] = np.maximum.reduceat(np.where(np.isfinite(scaled), distance, np.inf), starts)
        # Any positive number does for a cell with an infinite error: it keeps the gene expressed.
        scaled = np.where(np.isfinite(scaled), np.rint(scaled), 1.0)
    return sp.csr_matrix((scaled, matrix.indices, matrix.indptr), shape=matrix.shape), error


def in_fine_units(matrix: sp.csr_matrix) -> tuple[sp.csr_matrix, NDArray[np.bool_]]:
    """Turn log1p values whose counts are lost into whole numbers in proportion to the counts, some 1e8 per cell.

    Fine enough that log1p(number / sum * 1e4) is the value again, relative to the genes there are.

    Returns
    -------
    numbers : (C, V) float64
    possible : (C,) bool
        False where values are too large to be logarithms.
    """
    possible = np.ones(matrix.shape[0], dtype=bool)
    cells = np.repeat(np.arange(len(possible)), np.diff(matrix.indptr))
    possible[cells[matrix.data > MOST_LOG]] = False
    scaled = np.expm1(np.minimum(matrix.data, MOST_LOG).astype(np.float64))
    sums = np.bincount(cells, weights=scaled, minlength=len(possible))
    numbers = np.maximum(np.rint(scaled / sums[cells] * FINE), 1.0)
    return sp.csr_matrix((numbers, matrix.indices, matrix.indptr), shape=matrix.shape), possible


def is_log_normalised(matrix: sp.csr_matrix) -> bool:
    """Whether counts can be recovered from most of the first cells."""
    sample = matrix[:200]
    error = recover_counts(sample)[1][np.diff(sample.indptr) > 0]
    return bool(len(error)) and float(np.mean(error <= WHOLE)) > 0.5


def to_vocabulary(
    matrix: sp.csr_matrix, match: GeneMatch, num_genes: int, *, duplicates: Literal["sum", "unique"]
) -> sp.csr_matrix:
    """Move columns to their place in the vocabulary; unmatched genes go.

    Parameters
    ----------
    matrix : (C, V)
    match
        Where the V genes are in the vocabulary.
    num_genes
        G.
    duplicates
        Several file genes of one symbol: ``"sum"`` adds them up, ``"unique"`` takes the first only (what AnnData's
        ``var_names_make_unique`` amounts to).

    Returns
    -------
    (C, G) CSR, entries in gene order
    """
    rows = np.where(match.repeated, -1, match.rows) if duplicates == "unique" else match.rows
    genes = rows[matrix.indices]
    kept = genes >= 0
    indptr = np.concatenate([[0], np.cumsum(kept)])[matrix.indptr]
    moved = sp.csr_matrix((matrix.data[kept], genes[kept], indptr), shape=(matrix.shape[0], num_genes))
    moved.sum_duplicates()
    return moved


def rescale(counts: sp.csr_matrix, totals: NDArray[np.float64], *, most_counts: float = MOST_COUNTS) -> sp.csr_matrix:
    """Scale deep cells down to so many counts and round to whole counts; entries that become 0 go (published recipe).

    Parameters
    ----------
    counts : (C, G)
    totals : (C,)
        Counts of each cell over all genes of its file.

    Returns
    -------
    (C, G) int32
    """
    if totals.max(initial=0) <= most_counts:
        return sp.csr_matrix((counts.data.astype(np.int32), counts.indices, counts.indptr), shape=counts.shape)
    divisor = np.repeat(np.maximum(1.0, totals / most_counts), np.diff(counts.indptr))
    data = np.rint(counts.data / divisor).astype(np.int32)
    scaled = sp.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape, copy=True)
    scaled.eliminate_zeros()
    return scaled


def find_fault(matrix: sp.csr_matrix, *, cells: NDArray[np.object_], genes: NDArray[np.object_]) -> str | None:
    """Say what no count can be (not finite, negative), with cell, gene and value; None if there is nothing.

    Parameters
    ----------
    matrix : (C, V)
    cells, genes : (C,), (V,)
        Names for the message.
    """
    for what, wrong in (("not finite", ~np.isfinite(matrix.data)), ("negative", matrix.data < 0)):
        if wrong.any():
            entry = int(np.argmax(wrong))
            row, column = locate(matrix, entry)
            many = f" (and {int(wrong.sum()) - 1:,} more)" if wrong.sum() > 1 else ""
            where = f"gene {shortened(genes[column])} in cell {shortened(cells[row])}"
            return f"{matrix.data[entry]:g} for {where} is {what}{many}"
    return None
