"""What every file format gives, and the count matrices that several of them share.

Shapes: C cells of a file, V genes (variables) of a file, n cells of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.data.sources.h5_runs import StoredArray, StoredRows

MEMORY = 1 << 25
"""Entries of a matrix that are held at a time where the layout on disk is by gene: 1.2 GB while they are sorted."""

PIECE = 1 << 23
"""Values of a dense matrix, or entries of a matrix that is stored by gene, read at a time."""

MOST_REPEATS = 4
"""Entries of a cell for each gene, on average; more than one are repeats, which are added up."""


class NoMatrixError(Exception):
    """A file has no matrix of the name asked for."""


class Matrix(Protocol):
    """Numbers of cells and genes, read by rows.

    Attributes
    ----------
    shape : (C, V)
    """

    shape: tuple[int, int]

    def blocks(self, size: int) -> Iterator[sp.csr_matrix]:
        """Yield rows (n, V) from first to last, `size` at a time; entries in any order, zeros and repeats allowed."""


class CellFile(Protocol):
    """An open file of cells.

    Attributes
    ----------
    path : Path
        The file, or the folder of a format that is one.
    obs : DataFrame, C rows
        Annotations of the cells; the index is their names.
    var : DataFrame, V rows
        Annotations of the genes; the index is their names.
    layers : tuple of str
        Names of other matrices in the file, with ``"raw"`` for that of an AnnData's ``raw``.
    """

    path: Path
    obs: pd.DataFrame
    layers: tuple[str, ...]

    def matrix(self, layer: str | None) -> tuple[Matrix, pd.DataFrame]:
        """Return a matrix and the table of its genes; None for the main one.

        Raises
        ------
        NoMatrixError
            If the file has none of this name.
        """

    def close(self) -> None:
        """Close the file; its matrices cannot be read any more."""


class MemoryMatrix:
    """A matrix in memory, (C, V)."""

    def __init__(self, csr: sp.csr_matrix) -> None:
        self.shape = csr.shape
        self._csr = csr

    def blocks(self, size: int) -> Iterator[sp.csr_matrix]:
        """Yield rows."""
        for start in range(0, self.shape[0], size):
            yield self._csr[start : start + size]


class DenseMatrix:
    """A dense array on disk, (C, V) or, where `transposed`, (V, C)."""

    def __init__(self, array: Any, *, transposed: bool = False) -> None:
        if len(array.shape) != 2:
            raise ValueError(f"its matrix has {len(array.shape)} dimensions instead of 2")
        self._array = array
        self._transposed = transposed
        self.shape = tuple(array.shape)[:: -1 if transposed else 1]

    def blocks(self, size: int) -> Iterator[sp.csr_matrix]:
        """Yield rows."""
        step = max(1, min(size, PIECE // max(self.shape[1], 1)))
        for start in range(0, self.shape[0], size):
            stop = min(start + size, self.shape[0])
            parts = [self._rows(a, min(a + step, stop)) for a in range(start, stop, step)]
            yield parts[0] if len(parts) == 1 else sp.vstack(parts, format="csr")

    def _rows(self, start: int, stop: int) -> sp.csr_matrix:
        piece = self._array[:, start:stop].T if self._transposed else self._array[start:stop]
        return sp.csr_matrix(numbers(np.asarray(piece)))


class RowMatrix:
    """A compressed matrix on disk whose entries are sorted by cell.

    Parameters
    ----------
    data, indices, indptr
        Arrays on disk: values, genes, and where each cell begins, (E,), (E,), (C + 1,).
    shape : (C, V)
    """

    def __init__(self, data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> None:
        self.shape = (int(shape[0]), int(shape[1]))
        self._data, self._indices = data, indices
        self._indptr = checked_indptr(indptr, self.shape[0], data.shape[0], indices.shape[0])
        longest = int(np.diff(self._indptr).max(initial=0))
        if longest > MOST_REPEATS * self.shape[1]:  # would be read at once, however little it takes on the disk
            raise ValueError(f"a cell has {longest:,} entries for {self.shape[1]:,} genes")

    def blocks(self, size: int) -> Iterator[sp.csr_matrix]:
        """Yield rows."""
        for start in range(0, self.shape[0], size):
            indptr = self._indptr[start : start + size + 1]
            own = slice(int(indptr[0]), int(indptr[-1]))
            yield compressed(
                np.asarray(self._data[own]), np.asarray(self._indices[own]), indptr - own.start, self.shape[1]
            )

    def stored(self) -> StoredRows | None:
        """Return what reads any of the rows, also when the file is closed; None where it is not HDF5."""
        if not isinstance(self._data, h5py.Dataset) or not isinstance(self._indices, h5py.Dataset):
            return None
        return StoredRows(StoredArray(self._data), StoredArray(self._indices), self._indptr)


class ColumnMatrix:
    """A compressed matrix on disk whose entries are sorted by gene; parameters as for :class:`RowMatrix`.

    Rows are gathered by going through the whole matrix, at most `MEMORY` entries at a time: once where it fits.
    """

    def __init__(self, data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> None:
        self.shape = (int(shape[0]), int(shape[1]))
        self._data, self._indices = data, indices
        self._indptr = checked_indptr(indptr, self.shape[1], data.shape[0], indices.shape[0])

    def blocks(self, size: int) -> Iterator[sp.csr_matrix]:
        """Yield rows."""
        passes = max(1, -(-int(self._indptr[-1]) // MEMORY))
        rows = -(-self.shape[0] // passes)
        rows = max(size, rows // size * size)
        for start in range(0, self.shape[0], rows):
            yield from MemoryMatrix(self._gather(start, min(start + rows, self.shape[0]))).blocks(size)

    def _gather(self, start: int, stop: int) -> sp.csr_matrix:
        parts: list[tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int32]]] = []
        for a in range(0, int(self._indptr[-1]), PIECE):
            b = min(a + PIECE, int(self._indptr[-1]))
            cells = checked_indices(np.asarray(self._indices[a:b]), self.shape[0])
            own = (cells >= start) & (cells < stop)
            genes = np.repeat(
                np.arange(self.shape[1], dtype=np.int32), np.diff(np.clip(self._indptr, a, b)).astype(np.int64)
            )
            rows = (cells[own] - start).astype(np.int32)
            parts.append((numbers(np.asarray(self._data[a:b]))[own], rows, genes[own]))
        shape = (stop - start, self.shape[1])
        if not parts:
            return sp.csr_matrix(shape)
        data, cells, genes = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return sp.csr_matrix((data, (cells, genes)), shape=shape)


def numbers(values: NDArray[Any]) -> NDArray[Any]:
    """Return values that can be counted with.

    Raises
    ------
    ValueError
        If they are text or anything else that is no real number.
    """
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"its matrix holds {values.dtype}, not numbers")
    return values.astype(np.float32) if values.dtype == np.float16 else values


def checked_indptr(indptr: Any, rows: int, *entries: int) -> NDArray[np.int64]:
    """Return where rows begin, after a look at whether that can be: a damaged one would be read beyond its end."""
    starts = np.asarray(indptr).astype(np.int64)
    if starts.shape != (rows + 1,) or rows < 0:
        raise ValueError(f"its index has {starts.size:,} entries for {rows:,} rows")
    if starts[0] != 0 or np.any(np.diff(starts) < 0) or any(starts[-1] > number for number in entries):
        raise ValueError("its index is not in order or goes beyond its entries")
    return starts


def checked_indices(indices: NDArray[Any], number: int) -> NDArray[np.int64]:
    """Return positions, all of them within bounds."""
    if indices.dtype.kind not in "iu":
        raise ValueError(f"its index holds {indices.dtype}, not whole numbers")
    if len(indices) and (indices.min() < 0 or indices.max() >= number):
        raise ValueError(f"its index points beyond its {number:,} rows or columns")
    return indices.astype(np.int64, copy=False)


def compressed(data: NDArray[Any], indices: NDArray[Any], indptr: NDArray[np.int64], columns: int) -> sp.csr_matrix:
    """Return rows (n, columns) as CSR, checked: SciPy itself would read and write anywhere."""
    if len(data) != len(indices) or len(data) != indptr[-1]:
        raise ValueError("its entries end before its index says so")
    checked = checked_indices(indices, columns)
    return sp.csr_matrix((numbers(data), checked, indptr), shape=(len(indptr) - 1, columns))


def text(values: Any) -> NDArray[np.object_]:
    """Return names as Python strings; those of HDF5 come as bytes."""
    return np.array(
        [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in np.ravel(values)], object
    )
