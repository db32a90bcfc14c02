"""A small network over 120 genes, and a tiny screen of real cells of which some genes were moved."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import torch
from small_screens import screen_of

from cellfm_torch import CellFM, CellFMConfig, GenePerturbation
from cellfm_torch.paths import PBMC3K


@pytest.fixture(scope="session")
def real_cells() -> anndata.AnnData:
    """200 real cells, their 120 genes with most counts."""
    adata = anndata.read_h5ad(PBMC3K)[:200].copy()
    order = np.argsort(-np.asarray(adata.X.sum(0)).ravel(), kind="stable")[:120]
    return adata[:, np.sort(order)].copy()


@pytest.fixture(scope="session")
def network(real_cells: anndata.AnnData) -> CellFM:
    torch.manual_seed(0)
    config = CellFMConfig.preset("tiny", num_layers=2, dim=32, num_heads=2, num_genes=120)
    network = CellFM(config, genes=list(real_cells.var_names))
    with torch.no_grad():  # gains and offsets start where they hide mistakes
        for name, p in network.named_parameters():
            if "norm" in name or name.endswith("bias"):
                p.add_(0.2 * torch.randn_like(p))
    return network.eval()


@pytest.fixture(scope="session")
def words(real_cells: anndata.AnnData) -> list[str]:
    """Control, seven singles and three doubles, as GEARS writes them."""
    g = list(real_cells.var_names[::15])[:7]
    singles = [f"{gene}+ctrl" for gene in g]
    return ["ctrl", *singles, f"{g[0]}+{g[1]}", f"{g[2]}+{g[1]}", f"{g[3]}+{g[4]}"]


@pytest.fixture(scope="session")
def screen_cells(real_cells: anndata.AnnData, words: list[str]) -> anndata.AnnData:
    """40 control cells and 8 of each of ten conditions."""
    return screen_of(real_cells, words, [40, *[8] * (len(words) - 1)])


@pytest.fixture
def screen(screen_cells: anndata.AnnData, network: CellFM) -> GenePerturbation:
    return GenePerturbation(screen_cells, network, top_genes=120, control_cells=12)
