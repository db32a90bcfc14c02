"""A small network with everything at work, and a few real cells of three types, one of them rare."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from cellfm_torch import CellFM, CellFMConfig
from cellfm_torch.paths import PBMC3K

TYPES = {"a": 22, "b": 20, "rare": 1}


@pytest.fixture(scope="session")
def network() -> CellFM:
    torch.manual_seed(0)
    network = CellFM(CellFMConfig.preset("tiny", num_layers=2, dim=32, num_heads=2))
    with torch.no_grad():  # gains and offsets start where they hide mistakes
        for name, p in network.named_parameters():
            if "norm" in name or name.endswith("bias"):
                p.add_(0.2 * torch.randn_like(p))
    return network.eval()


@pytest.fixture(scope="session")
def folder(network: CellFM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gene_tasks") / "model"
    network.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def adata() -> anndata.AnnData:
    """43 cells: the third has no counts."""
    adata = anndata.read_h5ad(PBMC3K)[: sum(TYPES.values())].copy()
    counts = adata.X.tolil()
    counts[2] = 0
    adata.X = counts.tocsr()
    kinds = np.repeat(list(TYPES), list(TYPES.values()))
    adata.obs["kind"] = pd.Categorical(np.random.default_rng(0).permutation(kinds))
    adata.obs.index = [f"cell{i}" for i in range(adata.n_obs)]
    return adata


@pytest.fixture(scope="session")
def cells(adata: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gene_cells") / "cells.h5ad"
    adata.write_h5ad(path)
    return path
