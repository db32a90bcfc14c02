"""Gene embeddings as a table with a row for each gene and embedding.

Shapes: G vocabulary, D width.
"""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from cellfm_torch.data.sources.damage import damage_named
from cellfm_torch.errors import UserError, nearest


def embedding_table(genes: AnnData) -> pd.DataFrame:
    """Return all embeddings of an AnnData of genes below each other.

    Returns
    -------
    DataFrame with ``symbol``, ``ensembl_id``, ``biotype``, ``embedding`` (name in ``obsm`` without ``X_``) and ``e0``,
    ``e1`` ... (float32); genes without a finite embedding have no row.
    """
    tables = []
    for key, values in genes.obsm.items():
        x = np.asarray(values, dtype=np.float32)
        known = np.isfinite(x).all(1)
        table = pd.DataFrame(x[known], columns=[f"e{i}" for i in range(x.shape[1])])
        obs = genes.obs.loc[known, ["ensembl_id", "biotype"]].reset_index(names="symbol")
        obs["embedding"] = key.removeprefix("X_")
        tables.append(pd.concat([obs, table], axis=1))
    return pd.concat(tables, ignore_index=True)


def read_genes(path: Path) -> AnnData:
    """Read an h5ad file of genes into memory.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    with damage_named(path):
        return anndata.read_h5ad(path)


def stored_gene_embedding(genes: AnnData, key: str, source: str) -> np.ndarray:
    """Return one embedding, (G, D) float32; genes without one are NaN.

    Raises
    ------
    UserError
        If there is none of this name.
    """
    if key not in genes.obsm:
        there = list(genes.obsm)
        raise UserError(f"{source}: no obsm['{key}']: there are {', '.join(there) or 'none'}{nearest(key, there)}")
    return np.asarray(genes.obsm[key], dtype=np.float32)
