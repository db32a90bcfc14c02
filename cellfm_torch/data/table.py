"""What batches are made from: cells over a model's vocabulary that can be read in any order, in memory or on disk.

Shapes: n cells of the table, r rows asked for, K blocks, N genes of all cells asked for, G genes of the vocabulary.
"""

from __future__ import annotations

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
    """Cells over a vocabulary.

    Attributes
    ----------
    num_genes : int
        G.
    lengths : (n,) int
        Expressed genes of each cell.
    blocks : (K + 1,) int64
        Rows ``blocks[i]:blocks[i + 1]`` are read together most cheaply.
    """

    num_genes: int
    lengths: NDArray[np.integer]
    blocks: NDArray[np.int64]

    def __len__(self) -> int:
        """Return n."""

    def read(self, rows: NDArray[np.int64]) -> Rows:
        """Return the cells of ascending row numbers (r,); safe to call from several threads."""


def even_blocks(cells: int, size: int) -> NDArray[np.int64]:
    """Return blocks of `size` cells and a shorter last one."""
    return np.append(np.arange(0, cells, size), cells)


class MemoryTable:
    """A count matrix in memory.

    Parameters
    ----------
    counts : (n, G) CSR
        Whole counts.
    block_size
        Cells per block: what keeps neighbours together when several tables are shuffled as one.
    """

    def __init__(self, counts: sp.csr_matrix, *, block_size: int = 64) -> None:
        self.num_genes = counts.shape[1]
        self._indptr = counts.indptr.astype(np.int64)
        self._genes = counts.indices.astype(np.int32, copy=False)
        self._counts = counts.data.astype(np.int32, copy=False)
        self.lengths = np.diff(self._indptr).astype(np.int32)
        self.blocks = even_blocks(len(self.lengths), block_size)

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, rows: NDArray[np.int64]) -> Rows:
        """Return some cells."""
        return Rows(*compiled.gather_rows(rows, self._indptr, self._genes, self._counts))
