"""A small file of real cells."""

from __future__ import annotations

from pathlib import Path

import anndata
import pytest

from cellfm_torch.paths import PBMC3K


@pytest.fixture(scope="session")
def small_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty of the bundled cells."""
    path = tmp_path_factory.mktemp("cells") / "small.h5ad"
    anndata.read_h5ad(PBMC3K)[:60].copy().write_h5ad(path)
    return path
