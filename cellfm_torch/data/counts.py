"""Operations on the count matrix of a file: checks, recovery from log-normalised values, vocabulary, rescale.

Shapes: C cells of the file, V genes (variables) of the file, G genes of the vocabulary.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.data.genes import GeneMatch
from cellfm_torch.errors import UserError

MOST_COUNTS = 1e5
"""Cells with more counts than this are scaled down to it (published recipe)."""

WHOLE = 1e-2
"""Largest relative distance of a recovered count from a whole number; float16 storage alone reaches 2e-3."""


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
        Largest relative distance of a value from the whole number it was rounded to.
    """
    scaled = np.expm1(matrix.data.astype(np.float64))
    lengths = np.diff(matrix.indptr)
    filled = np.flatnonzero(lengths)
    starts = matrix.indptr[filled]
    error = np.zeros(len(lengths))
    if len(filled):
        scaled /= np.repeat(np.minimum.reduceat(scaled, starts), lengths[filled])
        whole = np.rint(scaled)
        error[filled] = np.maximum.reduceat(np.abs(scaled - whole) / scaled, starts)
        scaled = whole
    return sp.csr_matrix((scaled, matrix.indices, matrix.indptr), shape=matrix.shape), error


def is_log_normalised(matrix: sp.csr_matrix) -> bool:
    """Whether counts can be recovered from most of the first cells."""
    with np.errstate(over="ignore", invalid="ignore"):
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


def rescale(counts: sp.csr_matrix, totals: NDArray[np.float64]) -> sp.csr_matrix:
    """Scale deep cells down to 1e5 counts and round to whole counts; entries that become 0 go (published recipe).

    Parameters
    ----------
    counts : (C, G)
    totals : (C,)
        Counts of each cell over all genes of its file.

    Returns
    -------
    (C, G) int32
    """
    divisor = np.repeat(np.maximum(1.0, totals / MOST_COUNTS), np.diff(counts.indptr))
    data = np.rint(counts.data / divisor).astype(np.int32)
    scaled = sp.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape)
    scaled.eliminate_zeros()
    return scaled


def check_counts(matrix: sp.csr_matrix, *, file: str, cells: NDArray[np.object_], genes: NDArray[np.object_]) -> None:
    """Refuse what no count can be, naming file, cell, gene and value.

    Raises
    ------
    UserError
        If a value is negative, NaN or infinite, or if there is no positive value at all.
    """
    for what, wrong in (("not a number", ~np.isfinite(matrix.data)), ("negative", matrix.data < 0)):
        if wrong.any():
            entry = int(np.argmax(wrong))
            row, column = locate(matrix, entry)
            raise UserError(
                f"{file}: {what}: {matrix.data[entry]:g} for gene {genes[column]} in cell {cells[row]} "
                f"({int(wrong.sum()):,} such values); counts are 0, 1, 2, ...: choose the matrix that holds them with "
                "data.layer=NAME"
            )
    if matrix.nnz == 0:
        raise UserError(f"{file}: all {matrix.shape[0]:,} cells are empty: give a file with counts")
