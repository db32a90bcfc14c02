"""Small files of treated cells, a tiny network, and what both need."""

from __future__ import annotations

import functools
from typing import Any

import anndata
import numpy as np
import torch

from cellfm_torch import CellFM, CellFMConfig, ScFoundation, ScFoundationConfig
from cellfm_torch.paths import PBMC3K
from cellfm_torch.perturbation.chem.simulation import simulated_treatment

QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu"}
ASPIRIN, CAFFEINE, ETHANOL = "CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "CCO"


def network(backbone: str = "cellfm") -> CellFM | ScFoundation:
    torch.manual_seed(7)  # others than those of the baseline with random weights
    if backbone == "cellfm":
        return CellFM(CellFMConfig.preset("tiny", num_layers=1, dim=32, num_heads=1)).eval()
    return ScFoundation(ScFoundationConfig.preset("scfoundation-tiny")).eval()


def few_cells(number: int = 60) -> anndata.AnnData:
    """The first bundled cells without annotations."""
    adata = anndata.read_h5ad(PBMC3K)[:number].copy()
    adata.obs = adata.obs[[]]
    return adata


def small_file(number: int = 60) -> anndata.AnnData:
    """A third control, two compounds at two doses, two lines of cells."""
    adata = few_cells(number)
    drug = np.resize(["DMSO", "aspirin", "caffeine"], number)
    adata.obs["drug"] = drug
    adata.obs["dose"] = np.where(drug == "DMSO", 0.0, np.resize([1.0, 1.0, 1.0, 10.0, 10.0, 10.0], number))
    adata.obs["smiles"] = [{"aspirin": ASPIRIN, "caffeine": CAFFEINE}.get(name, "") for name in drug]
    adata.obs["line"] = np.repeat(["A549", "K562"], number // 2)
    return adata


@functools.cache
def simulated(cells: int = 80, controls: int = 200) -> anndata.AnnData:
    """Two families of the simulation at the highest dose, so many cells of each compound."""
    adata = simulated_treatment(seed=0, families=("steroid", "statin"), doses=(10.0,))
    number = adata.obs.groupby("drug", observed=True).cumcount().to_numpy()
    control = (adata.obs["drug"] == "DMSO").to_numpy()
    return adata[np.where(control, number < controls, number < cells)].copy()
