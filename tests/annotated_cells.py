"""A file of annotated cells as cellfm annotate leaves it, with a rejected group and a cell without counts."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from cellfm_torch.paths import PBMC3K

NUM_CELLS, NUM_GENES = 240, 400
WITHOUT_COUNTS = 7


def annotated_cells() -> anndata.AnnData:
    """Real cells and types; predictions wrong for one in ten, and all NK cells called unknown T cells."""
    adata = anndata.read_h5ad(PBMC3K)[:NUM_CELLS].copy()
    order = np.argsort(-np.asarray(adata.X.sum(0)).ravel(), kind="stable")[:NUM_GENES]
    adata = adata[:, np.sort(order)].copy()
    rng = np.random.default_rng(0)
    truth = adata.obs["cell_type"].astype(str).to_numpy(dtype=object)
    adata.obs.index = [f"cell {i} <b>" if i == 0 else f"cell {i}" for i in range(NUM_CELLS)]
    types = np.array(sorted(set(truth) - {"NK"}), object)
    label = np.where(rng.random(NUM_CELLS) < 0.1, rng.choice(types, NUM_CELLS), truth)
    label[truth == "NK"] = types[0]
    codes = pd.factorize(truth)[0]
    embedding = np.eye(codes.max() + 1)[codes] * 5 + rng.normal(size=(NUM_CELLS, codes.max() + 1))
    embedding[WITHOUT_COUNTS] = np.nan
    adata.obs["cellfm_label"] = pd.Categorical(label)
    adata.obs["cellfm_probability"] = rng.uniform(0.4, 1, NUM_CELLS)
    adata.obs["cellfm_runner_up"] = pd.Categorical(rng.choice(types, NUM_CELLS))
    adata.obs["cellfm_unknown"] = truth == "NK"
    adata.obs["batch"] = rng.choice(["one", "two"], NUM_CELLS)
    adata.obsm["X_cellfm"] = embedding.astype(np.float32)
    adata.uns["cellfm"] = {"model": {"weights_sha256": "abc123"}, "options": json.dumps({"int8": False})}
    return adata


def write_annotated(path: Path) -> Path:
    annotated_cells().write_h5ad(path)
    return path
