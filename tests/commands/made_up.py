"""A small file of annotated real cells and a tiny model, for the analysing commands."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import torch

from cellfm_torch import CellFM, CellFMConfig
from cellfm_torch.paths import PBMC3K

NUM_CELLS = 150


def make_cells(path: Path) -> anndata.AnnData:
    """Write 150 of the bundled cells, their 300 genes with most counts, with made-up batches, donors, conditions."""
    adata = anndata.read_h5ad(PBMC3K)[:NUM_CELLS].copy()
    order = np.argsort(-np.asarray(adata.X.sum(0)).ravel(), kind="stable")[:300]
    adata = adata[:, np.sort(order)].copy()
    rng = np.random.default_rng(0)
    adata.obs["batch"] = rng.choice(["one", "two"], NUM_CELLS)
    adata.obs["donor"] = rng.choice(["d1", "d2"], NUM_CELLS)
    adata.obs["condition"] = rng.choice(["ctrl", "stim"], NUM_CELLS)
    adata.write_h5ad(path)
    return adata


def make_model(folder: Path, genes: list[str], *, num_layers: int = 1) -> Path:
    """Write a tiny model of these genes, with random weights."""
    torch.manual_seed(0)
    config = CellFMConfig.preset("tiny", num_layers=num_layers, dim=32, num_heads=1, num_genes=len(genes))
    CellFM(config, genes=genes).save_pretrained(folder)
    return folder
