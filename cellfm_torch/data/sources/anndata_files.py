"""AnnData on disk: h5ad and zarr (a folder or a zip), and the RNA of a MuData file.

The tables are read by anndata; matrices stay on disk and are read in blocks, so that a file may be larger than memory.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import pandas as pd
import scipy.sparse as sp
import zarr
from anndata.io import read_elem

from cellfm_torch.data.sources.base import ColumnMatrix, DenseMatrix, Matrix, MemoryMatrix, NoMatrixError, RowMatrix
from cellfm_torch.errors import UserError
from cellfm_torch.files import check_inside

COMPRESSED: dict[str, Callable[..., Matrix]] = {"csr_matrix": RowMatrix, "csc_matrix": ColumnMatrix}
LEGACY = {"csr": "csr_matrix", "csc": "csc_matrix"}
"""Names of formats in files of anndata before 0.7."""


class AnnDataFile:
    """An AnnData that stays on disk.

    Parameters
    ----------
    path
        The file or folder.
    root
        Its open HDF5 or zarr group.
    """

    def __init__(self, path: Path, root: Any) -> None:
        self.path = path
        self._root = root
        missing = [part for part in ("obs", "var") if part not in root]
        if missing:
            what = "HDF5 but not h5ad" if isinstance(root, h5py.Group) else "zarr but not an AnnData"
            raise UserError(f"{path}: is {what} (no {' and no '.join(missing)}): write it with AnnData.write_h5ad")
        layers = list(root["layers"]) if "layers" in root else []
        self.layers = (*sorted(map(str, layers)), *(["raw"] if self._has_raw() else []))
        self.obs = _table(root["obs"])

    def close(self) -> None:
        """Close the file."""
        if isinstance(self._root, h5py.Group):
            self._root.file.close()
        else:
            self._root.store.close()

    def _has_raw(self) -> bool:
        return "raw" in self._root and hasattr(self._root["raw"], "keys") and "X" in self._root["raw"]

    def matrix(self, layer: str | None) -> tuple[Matrix, pd.DataFrame]:
        """Return ``X``, ``raw.X`` for ``"raw"``, or a layer."""
        holder = self._root
        if layer is None:
            stored = self._root["X"] if "X" in self._root and not _is_null(self._root["X"]) else None
        elif "layers" in self._root and layer in self._root["layers"]:
            stored = self._root["layers"][layer]
        elif layer == "raw" and self._has_raw():
            holder, stored = self._root["raw"], self._root["raw"]["X"]
        else:
            stored = None
        if stored is None:
            raise NoMatrixError(layer)
        matrix, var = _open(stored), _table(holder["var"])
        if matrix.shape != (len(self.obs), len(var)):
            raise ValueError(f"its matrix is {matrix.shape}, its tables are of {len(self.obs)} and {len(var)}")
        return matrix, var


def _open(stored: Any) -> Matrix:
    if not hasattr(stored, "keys"):
        return DenseMatrix(stored)
    attributes = dict(stored.attrs)
    legacy = attributes.get("h5sparse_format", "")
    encoding = _word(attributes.get("encoding-type")) or LEGACY.get(_word(legacy), "")
    if encoding not in COMPRESSED:
        raise ValueError(f"its matrix is of an unknown kind, {encoding or 'without encoding-type'}")
    shape = attributes["shape"] if "shape" in attributes else attributes["h5sparse_shape"]
    rows, columns = (int(number) for number in shape)
    if min(rows, columns) < 0:
        raise ValueError(f"its matrix claims to be {rows} x {columns}")
    return COMPRESSED[encoding](stored["data"], stored["indices"], stored["indptr"], (rows, columns))


def _is_null(stored: Any) -> bool:
    return _word(dict(stored.attrs).get("encoding-type")) == "null" or getattr(stored, "shape", ()) is None


def _word(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _table(stored: Any) -> pd.DataFrame:
    if not hasattr(stored, "keys"):
        raise _Legacy
    _check_claims(stored)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = read_elem(stored)
    if not isinstance(table, pd.DataFrame):
        raise ValueError(f"{stored.name} is not a table")
    table.index = table.index.astype(str)
    return table


LARGE, MOST_PACKED = 1 << 30, 100_000
"""Bytes of a column that is looked at, and how many of them a stored byte may stand for."""


def _check_claims(table: Any) -> None:
    """Refuse a table of a zarr store with columns that claim far more than is stored; HDF5 was looked at before."""
    if isinstance(table, h5py.Group):
        return
    for column in (table[name] for name in table):
        if hasattr(column, "keys"):
            _check_claims(column)
        elif column.nbytes > LARGE and column.nbytes > MOST_PACKED * column.nbytes_stored():
            raise ValueError(f"{column.path} claims {column.size:,} values in {column.nbytes_stored():,} bytes")


class _Legacy(Exception):
    """Tables of anndata before 0.7, which anndata reads only together with everything else."""


class MemoryFile:
    """An AnnData in memory: what the user has there, or a file of anndata before 0.7, which is read as a whole.

    Parameters
    ----------
    path
        The file, or what messages call the object.
    adata
        The cells.
    """

    def __init__(self, path: Path, adata: anndata.AnnData) -> None:
        self.path = path
        self._adata = adata.to_memory() if adata.isbacked else adata
        self.obs = adata.obs
        raw = ["raw"] if adata.raw is not None else []
        # From 0.13 on, AnnData lists X among the layers, as None.
        self.layers = (*sorted(name for name in adata.layers if name is not None), *raw)

    def close(self) -> None:
        """Do nothing: the file is in memory."""

    def matrix(self, layer: str | None) -> tuple[Matrix, pd.DataFrame]:
        """Return ``X``, ``raw.X`` for ``"raw"``, or a layer."""
        holder = self._adata.raw if layer == "raw" and "raw" not in self._adata.layers else self._adata
        named = layer is not None and layer in self._adata.layers
        stored = holder.layers[layer] if named else holder.X if holder is not None and layer in (None, "raw") else None
        if stored is None:
            raise NoMatrixError(layer)
        return MemoryMatrix(_as_csr(stored)), holder.var


def _as_csr(stored: Any) -> sp.csr_matrix:
    if stored.dtype.kind not in "iufb":
        raise ValueError(f"its matrix holds {stored.dtype}, not numbers")
    return sp.csr_matrix(stored)


def open_h5ad(path: Path) -> AnnDataFile | MemoryFile:
    """Open an h5ad file, or an h5mu file for its modality ``rna``."""
    file = h5py.File(path)
    root = file
    if "mod" in file and "obs" in file and "rna" in file["mod"]:
        root = file["mod"]["rna"]
    try:
        return AnnDataFile(path, root)
    except _Legacy:
        file.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return MemoryFile(path, anndata.read_h5ad(path))
    except BaseException:
        file.close()
        raise


def open_zarr(path: Path) -> AnnDataFile:
    """Open an AnnData in zarr format: a folder, or a zip of one."""
    if path.is_dir():  # a chunk may be a link to any file of this machine
        parts = (os.path.join(parent, name) for parent, folders, files in os.walk(path) for name in (*folders, *files))
        check_inside(filter(os.path.islink, parts), path)
    store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else path
    return AnnDataFile(path, zarr.open_group(store, mode="r"))
