"""What cells alone say of genes, without a model: how much and how often they are expressed, and PCA loadings.

Shapes: n cells, G genes, P components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from cellfm_torch.analysis.expression import log_normalised
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.reader import read_cells
from cellfm_torch.errors import UserError

MOST_CELLS = 20_000
"""Of more cells so many are drawn: means and loadings of genes no longer change by then."""

COMPONENTS = 50


@dataclass(frozen=True)
class GeneProfiles:
    """Log-normalised cells over the genes that are asked about.

    Attributes
    ----------
    values : (n, G) CSR
        log1p(CP10K), counts relative to those in the G genes.
    obs : DataFrame, n rows
        Annotations of the cells.
    source : str
        Name of the file.
    """

    values: sp.csr_matrix
    obs: pd.DataFrame
    source: str

    @classmethod
    def read(
        cls,
        cells: AnnData | str | Path,
        symbols: Sequence[str],
        *,
        most_cells: int | None = MOST_CELLS,
        seed: int = 0,
        **reading: Any,
    ) -> GeneProfiles:
        """Read raw counts.

        Parameters
        ----------
        cells
            A file of any known format, or an AnnData.
        symbols : G gene symbols
        most_cells
            Of more so many are drawn.
        reading
            Fields of :class:`~cellfm_torch.data.options.ReadOptions`.

        Raises
        ------
        UserError
            If the cells cannot be read or none has counts in these genes.
        """
        found = read_cells(cells, GeneVocab(symbols), **{"min_genes": 0, **reading})
        name = "the AnnData" if isinstance(cells, AnnData) else str(cells)
        rows = np.flatnonzero(np.diff(found.counts.indptr) > 0)
        if not len(rows):
            raise UserError(f"{name}: none of its {len(found):,} cells has counts in these genes")
        if most_cells is not None and len(rows) > most_cells:
            rows = np.sort(np.random.default_rng(seed).choice(rows, most_cells, replace=False))
        return cls(log_normalised(found.counts[rows]), found.obs.iloc[rows], name)

    @property
    def cells_of(self) -> NDArray[np.int64]:
        """How many cells express each gene, (G,)."""
        return np.asarray(self.values.getnnz(0), dtype=np.int64)

    def expression(self) -> NDArray[np.float64]:
        """Return mean log1p(CP10K) and share of cells that express it, (G, 2)."""
        mean = np.asarray(self.values.mean(0), dtype=np.float64).ravel()
        return np.stack([mean, self.cells_of / self.values.shape[0]], axis=1)

    def loadings(self, components: int = COMPONENTS, *, seed: int = 0) -> NDArray[np.float64]:
        """Return PCA loadings of the genes, each component scaled by the standard deviation of its scores, (G, P).

        Cells are centred, genes are not brought to unit variance, and a gene that no cell expresses has zeros. P is
        smaller where there are not so many cells or genes.
        """
        from scipy.sparse.linalg import LinearOperator, svds

        cells, genes = self.values.shape
        number = min(components, cells - 1, genes - 1)
        if number < 1:
            raise UserError(f"{self.source}: {cells} cells are too few for principal components: give more")
        x, mean = self.values.astype(np.float64), np.asarray(self.values.mean(0), dtype=np.float64).ravel()
        # The centred matrix is never made: it has no zeros.
        centred = LinearOperator(
            x.shape,
            matvec=lambda v: x @ np.ravel(v) - mean @ np.ravel(v),
            rmatvec=lambda u: x.T @ np.ravel(u) - mean * np.sum(u),
            matmat=lambda v: x @ v - mean @ v,
            rmatmat=lambda u: x.T @ u - np.outer(mean, np.sum(u, axis=0)),
            dtype=np.float64,
        )
        start = np.random.default_rng(seed).normal(size=min(x.shape))
        _, singular, axes = svds(centred, k=number, v0=start)
        order = np.argsort(-singular)
        return np.asarray((axes[order] * singular[order, None] / np.sqrt(max(cells - 1, 1))).T)
