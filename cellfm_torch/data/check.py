"""Whether a file holds counts: what is refused, and what is advised instead.

Shapes: C cells of a file, n cells of a block, V genes (variables) of a file.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.data import counts as ops
from cellfm_torch.data.genes import GeneMatch
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.sources.base import CellFile
from cellfm_torch.errors import UserError, shortened

SCALED = 0.05
"""Values are z-scores where more than this share of the entries of a block is negative."""

LARGEST = 2**31 - 1
"""Counts are kept as int32."""


class CountCheck:
    """Looks at the blocks of a file, one after another.

    Parameters
    ----------
    file
        Where they come from.
    match
        Its genes, (V,).
    options
        How it is read.
    """

    def __init__(self, file: CellFile, match: GeneMatch, options: ReadOptions) -> None:
        self._file = file
        self._genes = np.asarray(match.names, dtype=object)
        self._options = options
        self._entries = 0

    def whole_counts(self, matrix: sp.csr_matrix, start: int) -> tuple[sp.csr_matrix, NDArray[np.float64]]:
        """Return counts (n, V), and how far each cell's (n,) were from whole numbers; refuse what is no count.

        Parameters
        ----------
        matrix : (n, V)
            Without stored zeros.
        start
            Row of the first cell in the file.
        """
        path, cells = self._file.path, self._file.obs.index
        first = not self._entries
        self._entries += matrix.nnz
        fault = ops.find_fault(matrix, cells=cells[start:].to_numpy(), genes=self._genes)
        if fault:
            what = "holds scaled values (z-scores), not counts: " if _is_scaled(matrix) else ""
            raise UserError(f"{path}: {what}{fault}; counts are 0, 1, 2, ...: {self._where_counts_are()}")
        whole = ops.is_whole(matrix.data)
        if self._options.counts == "recover":
            if first and matrix.nnz and whole:
                raise UserError(f"{path}: holds whole counts already: use data.counts=raw")
            return ops.recover_counts(matrix)
        if self._options.counts == "normalised":
            if first and matrix.nnz and whole:
                raise UserError(f"{path}: holds whole counts already: use data.counts=raw")
            numbers, possible = ops.in_fine_units(matrix)
            if not possible.all():
                cell = shortened(cells[start + int(np.argmin(possible))])
                raise UserError(f"{path}: values of cell {cell} are too large to be log1p: {self._where_counts_are()}")
            return numbers, np.zeros(matrix.shape[0])
        if not whole:
            entry = int(np.argmax(matrix.data != np.rint(matrix.data)))
            row, column = ops.locate(matrix, entry)
            example = f"{matrix.data[entry]:.4g} for {self._entry(start + row, column)}"
            if not ops.is_log_normalised(matrix):
                what = f"{example} is no whole count, and no log-normalised one either"
                raise UserError(f"{path}: {what}: {self._where_counts_are()}")
            better = self._layer_with_counts()
            advice = f"read its counts with data.layer={better}" if better else "recover them with data.counts=recover"
            raise UserError(f"{path}: is log-normalised, not counts ({example}): {advice}")
        if matrix.nnz and matrix.data.max() > LARGEST:
            row, column = ops.locate(matrix, int(np.argmax(matrix.data)))
            what = f"{matrix.data.max():.4g} for {self._entry(start + row, column)}"
            raise UserError(f"{path}: {what} is no count of molecules: {self._where_counts_are()}")
        return matrix, np.zeros(matrix.shape[0])

    def recovered(self, error: NDArray[np.float64], kept: NDArray[np.bool_], start: int) -> None:
        """Refuse cells (n,) that are kept and whose values were no logarithms of counts."""
        if np.any(error[kept] > ops.WHOLE):
            worst = int(np.flatnonzero(kept)[np.argmax(error[kept])])
            cell = shortened(self._file.obs.index[start + worst])
            raise UserError(
                f"{self._file.path}: counts cannot be recovered: cell {cell} is not log1p of scaled counts (natural "
                f"logarithm; off by {error[worst]:.0%}): {self._where_counts_are()}, or take the values as they are "
                "with data.counts=normalised"
            )

    def finish(self, cells: int) -> None:
        """Refuse a file without any count."""
        if not self._entries:
            raise UserError(f"{self._file.path}: all {cells:,} cells are empty: give a file with counts")

    def _entry(self, cell: int, gene: int) -> str:
        return f"gene {shortened(self._genes[gene])} in cell {shortened(self._file.obs.index[cell])}"

    def _layer_with_counts(self) -> str | None:
        """Return the name of another matrix whose first cells hold whole counts, or None."""
        for name in self._file.layers:
            if name == self._options.layer:
                continue
            try:
                values = ops.to_csr(next(self._file.matrix(name)[0].blocks(200))).data
            except Exception:  # advice must not fail: a damaged layer holds no counts
                continue
            if len(values) and ops.is_whole(values) and values.min() > 0:
                return name
        return None

    def _where_counts_are(self) -> str:
        name = self._layer_with_counts()
        if name:
            return f"use data.layer={name}, which holds whole counts"
        return "name the layer with counts: data.layer=NAME"


def _is_scaled(matrix: sp.csr_matrix) -> bool:
    values = matrix.data[np.isfinite(matrix.data)]
    return len(values) > 0 and float(np.mean(values < 0)) > SCALED and not ops.is_whole(values)
