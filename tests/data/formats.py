"""The same cells in every format, written the way programs write them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import scipy.io
import scipy.sparse as sp

Write = Callable[[anndata.AnnData, Path], Path]


def tenx_h5(adata: anndata.AnnData, folder: Path) -> Path:
    """Cell Ranger 3 and later."""
    counts = sp.csr_matrix(adata.X)
    with h5py.File(folder / "cells.h5", "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(adata.obs_names, dtype="S")
        group["data"], group["indices"], group["indptr"] = counts.data.astype(int), counts.indices, counts.indptr
        group["shape"] = adata.shape[::-1]
        features = group.create_group("features")
        features["id"] = np.array([f"x{i}" for i in range(adata.n_vars)], dtype="S")
        features["name"] = np.array(adata.var_names, dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * adata.n_vars, dtype="S")
        features["genome"] = np.array(["GRCh38"] * adata.n_vars, dtype="S")
    return folder / "cells.h5"


def tenx_h5_v2(adata: anndata.AnnData, folder: Path) -> Path:
    """Cell Ranger 2."""
    counts = sp.csr_matrix(adata.X)
    with h5py.File(folder / "cells.h5", "w") as file:
        group = file.create_group("hg19")
        group["barcodes"] = np.array(adata.obs_names, dtype="S")
        group["data"], group["indices"], group["indptr"] = counts.data.astype(int), counts.indices, counts.indptr
        group["shape"] = adata.shape[::-1]
        group["genes"] = np.array([f"x{i}" for i in range(adata.n_vars)], dtype="S")
        group["gene_names"] = np.array(adata.var_names, dtype="S")
    return folder / "cells.h5"


def mtx(adata: anndata.AnnData, folder: Path, *, packed: bool = False, prefix: str = "") -> Path:
    """Cell Ranger 2, or 3 and later where packed."""
    folder = folder / "filtered"
    folder.mkdir()
    opened: Any = gzip.open if packed else open
    end = ".gz" if packed else ""
    with opened(folder / f"{prefix}matrix.mtx{end}", "wb") as file:
        scipy.io.mmwrite(file, sp.coo_matrix(adata.X).T.astype(int))
    with opened(folder / f"{prefix}{'features' if packed else 'genes'}.tsv{end}", "wt") as file:
        third = "\tGene Expression" if packed else ""
        file.writelines(f"x{i}\t{name}{third}\n" for i, name in enumerate(adata.var_names))
    with opened(folder / f"{prefix}barcodes.tsv{end}", "wt") as file:
        file.writelines(f"{name}\n" for name in adata.obs_names)
    return folder


def loom(adata: anndata.AnnData, folder: Path) -> Path:
    with h5py.File(folder / "cells.loom", "w") as file:
        file["matrix"] = sp.csr_matrix(adata.X).toarray().T
        file.create_group("row_attrs")["Gene"] = np.array(adata.var_names, dtype="S")
        columns = file.create_group("col_attrs")
        columns["CellID"] = np.array(adata.obs_names, dtype="S")
        columns["cell_type"] = np.array(adata.obs["cell_type"], dtype="S")
        file.create_group("layers")["twice"] = sp.csr_matrix(adata.X).toarray().T * 2
    return folder / "cells.loom"


def table(name: str, *, genes_in_rows: bool, separator: str = ",", r_style: bool = False) -> Write:
    def write(adata: anndata.AnnData, folder: Path) -> Path:
        frame = adata.to_df().astype(int)
        frame = frame.T if genes_in_rows else frame
        frame.to_csv(folder / name, sep=separator)
        if r_style:  # write.table names no column of row names
            text = (folder / name).read_text()
            (folder / name).write_text(text.removeprefix(separator))
        return folder / name

    return write


def zarr_folder(adata: anndata.AnnData, folder: Path) -> Path:
    adata.write_zarr(folder / "cells.zarr")
    return folder / "cells.zarr"


def h5ad(layout: Callable[[Any], Any]) -> Write:
    def write(adata: anndata.AnnData, folder: Path) -> Path:
        adata = adata.copy()
        adata.X = layout(adata.X)
        adata.write_h5ad(folder / "cells.h5ad")
        return folder / "cells.h5ad"

    return write


WRITERS: dict[str, Write] = {
    "h5ad csr": h5ad(sp.csr_matrix),
    "h5ad csc": h5ad(sp.csc_matrix),
    "h5ad dense": h5ad(lambda x: x if isinstance(x, np.ndarray) else x.toarray()),
    "zarr": zarr_folder,
    "10x h5": tenx_h5,
    "10x h5 v2": tenx_h5_v2,
    "mtx": mtx,
    "mtx.gz": lambda adata, folder: mtx(adata, folder, packed=True),
    "matrix.mtx itself": lambda adata, folder: mtx(adata, folder) / "matrix.mtx",
    "mtx with a prefix": lambda adata, folder: mtx(adata, folder, packed=True, prefix="GSM1_"),
    "loom": loom,
    "csv": table("cells.csv", genes_in_rows=False),
    "csv of genes": table("cells.csv.gz", genes_in_rows=True),
    "tsv of R": table("cells.tsv", genes_in_rows=True, separator="\t", r_style=True),
    "semicolons": table("cells.csv", genes_in_rows=False, separator=";"),
    "txt": table("cells.txt", genes_in_rows=True, separator=" "),
}
