"""Small made-up cells, written to disk the way users have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellfm_torch.data.gene_table import BUNDLED, GeneTable
from cellfm_torch.data.genes import GeneVocab

NUM_CELLS, NUM_GENES = 40, 60


@pytest.fixture(autouse=True)
def no_own_gene_table(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the gene table of whoever runs the tests."""
    monkeypatch.delenv("CELLFM_GENES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "no-cache"))


@pytest.fixture(scope="session")
def ensembl_ids() -> list[str]:
    """Ensembl ids of 60 genes."""
    return [gene.ensembl[0] for gene in GeneTable.load(BUNDLED).genes[100 : 100 + NUM_GENES]]


@pytest.fixture(scope="session")
def vocab(ensembl_ids: list[str]) -> GeneVocab:
    """The symbols of these genes."""
    table = GeneTable.load(BUNDLED)
    return GeneVocab([table.genes[table.ensembl[gene]].symbol for gene in ensembl_ids])


@pytest.fixture(scope="session")
def synthetic_counts() -> np.ndarray:
    """Counts (40 cells, 60 genes), about 40 % of them 0; each cell has a count of 1 and at least one of each gene."""
    rng = np.random.default_rng(7)
    counts = rng.poisson(rng.gamma(0.5, 6.0, size=(NUM_CELLS, NUM_GENES)))
    counts[:, 0] = 1
    return counts


@pytest.fixture
def synthetic_cells(synthetic_counts: np.ndarray, vocab: GeneVocab) -> Callable[..., anndata.AnnData]:
    """Make an AnnData; `matrix` replaces the counts in X, `genes` the symbols."""

    def make(matrix: object = None, *, genes: list[str] | None = None) -> anndata.AnnData:
        matrix = sp.csr_matrix(synthetic_counts.astype(np.float32)) if matrix is None else matrix
        cells = [f"cell{i}" for i in range(matrix.shape[0])]
        types = np.resize(["B", "T", "NK"], len(cells))
        return anndata.AnnData(
            matrix,
            obs=pd.DataFrame({"cell_type": pd.Categorical(types), "depth": np.arange(len(cells))}, index=cells),
            var=pd.DataFrame(index=list(vocab.symbols) if genes is None else genes),
        )

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write an AnnData to a file of this test's folder."""

    def write(adata: anndata.AnnData, name: str = "cells.h5ad") -> Path:
        adata.write_h5ad(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def cells_file(synthetic_cells: Callable[..., anndata.AnnData], write: Callable[..., Path]) -> Path:
    """A plain file of the synthetic cells."""
    return write(synthetic_cells())
