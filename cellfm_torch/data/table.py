"""What batches are made from: cells over a model's vocabulary that can be read in any order, in memory or on disk.

Shapes: n cells of the table, r rows asked for, K blocks, N genes of all cells asked for, G genes of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.data import compiled


class Rows(NamedTuple):
    """Some cells, laid end to end."""

    offsets: NDArray[np.int64]  # (r + 1,)
    genes: NDArray[np.int32]  # (N,) vocabulary positions
    counts: NDArray[np.int32]  # (N,) whole counts after the published rescale, above 0


class CellTable(Protocol):
    """Cells over a vocabulary."""

    @property
    def num_genes(self) -> int:
        """G."""

    @property
    def lengths(self) -> NDArray[np.integer]:
        """Expressed genes of each cell, (n,)."""

    @property
    def blocks(self) -> NDArray[np.int64]:
        """Borders of the rows that are read together most cheaply, (K + 1,)."""

    def __len__(self) -> int:
        """Return n."""

    def read(self, rows: NDArray[np.int64]) -> Rows:
        """Return the cells of ascending row numbers (r,); safe to call from several threads."""


def block_borders(cells: int, size: int) -> NDArray[np.int64]:
    """Return borders of blocks of `size` neighbours, the last one shorter, (K + 1,)."""
    return np.append(np.arange(0, cells, size), cells)


class MemoryTable:
    """A count matrix in memory.

    Parameters
    ----------
    counts : (n, G) CSR
        Whole counts.
    block_size
        Cells per block: one, as neighbours are not cheaper to read than others.
    """

    def __init__(self, counts: sp.csr_matrix, *, block_size: int = 1) -> None:
        self.num_genes = counts.shape[1]
        self._indptr = counts.indptr.astype(np.int64)
        self._genes = counts.indices.astype(np.int32, copy=False)
        self._counts = counts.data.astype(np.int32, copy=False)
        self.lengths = np.diff(self._indptr).astype(np.int32)
        self.blocks = block_borders(len(self.lengths), block_size)

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, rows: NDArray[np.int64]) -> Rows:
        """Return some cells."""
        return Rows(*compiled.gather_rows(rows, self._indptr, self._genes, self._counts))


class JoinedTable:
    """Several tables over one vocabulary as one; the cells of the first come first."""

    def __init__(self, tables: Sequence[CellTable]) -> None:
        self.tables = list(tables)
        self.num_genes = self.tables[0].num_genes
        self.starts = np.concatenate([[0], np.cumsum([len(table) for table in self.tables], dtype=np.int64)])
        self.lengths = np.concatenate([table.lengths for table in self.tables])
        blocks = [table.blocks[:-1] + start for table, start in zip(self.tables, self.starts, strict=False)]
        self.blocks = np.concatenate([*blocks, self.starts[-1:]])

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, rows: NDArray[np.int64]) -> Rows:
        """Return some cells."""
        cuts = np.searchsorted(rows, self.starts)
        parts = [
            table.read(rows[a:b] - start)
            for table, start, a, b in zip(self.tables, self.starts, cuts[:-1], cuts[1:], strict=False)
            if a < b
        ]
        if len(parts) == 1:
            return parts[0]
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows], dtype=np.int64)])
        return Rows(
            offsets, np.concatenate([part.genes for part in parts]), np.concatenate([part.counts for part in parts])
        )
