"""Cells of very unequal lengths, so that batches have very unequal numbers of targets."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from cellfm_torch.paths import PBMC3K

GENES, CELLS = 300, 110


@pytest.fixture(scope="session")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A file of 110 cells with 2 to 290 of 300 genes, and its genes."""
    adata = anndata.read_h5ad(PBMC3K)[:CELLS].copy()
    order = np.argsort(-np.asarray(adata.X.sum(0)).ravel(), kind="stable")[:GENES]
    adata = adata[:, np.sort(order)].copy()
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, (CELLS, GENES)) + 1
    share = np.where(rng.random(CELLS) < 0.6, 0.03, 0.95)
    counts[rng.random((CELLS, GENES)) > share[:, None]] = 0
    counts[:, 0] = 1
    adata.X = sp.csr_matrix(counts.astype(np.float32))
    path = tmp_path_factory.mktemp("ragged") / "ragged.h5ad"
    adata.write_h5ad(path)
    return path, [str(name) for name in adata.var_names]
