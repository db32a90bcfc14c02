"""Embeddings into an AnnData in memory, or into a copy of an h5ad file that is never in memory as a whole.

Shapes: n cells, C width of an output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import read_elem, write_elem
from numpy.typing import NDArray

from cellfm_torch.data.sources.base import CellFile
from cellfm_torch.data.sources.damage import damage_named
from cellfm_torch.data.sources.formats import open_file
from cellfm_torch.data.sources.probe import look_at
from cellfm_torch.embedding.parts import Parts
from cellfm_torch.h5_files import h5_beside, write_anndata

BLOCK = 4096
"""Cells that are read at a time from files that are no h5ad."""


@dataclass(frozen=True)
class Result:
    """What is to be added to an AnnData.

    Attributes
    ----------
    parts
        Embeddings by row and output; cells in none of them get NaN.
    keys : dict of str to str
        Name in ``obsm`` of each output.
    columns : dict of str to (n,) values
        Columns of ``obs``.
    uns : dict
        What goes into ``uns["cellfm"]``.
    cells : int
        n.
    """

    parts: Parts
    keys: Mapping[str, str]
    columns: Mapping[str, Any]
    uns: Mapping[str, Any]
    cells: int

    def add_to(self, adata: anndata.AnnData) -> None:
        """Add it to an AnnData in memory."""
        arrays: dict[str, NDArray[np.float32]] = {}
        for rows, name, values in self._values():
            if name not in arrays:
                arrays[name] = np.full((self.cells, values.shape[1]), np.nan, dtype=np.float32)
            arrays[name][rows] = values
        for name, key in self.keys.items():
            adata.obsm[key] = arrays[name]
        for column, values in self.columns.items():
            adata.obs[column] = values
        adata.uns["cellfm"] = dict(self.uns)

    def add_to_file(self, group: h5py.Group) -> None:
        """Add it to the AnnData in an HDF5 file that is open for writing."""
        obsm = group.require_group("obsm")
        for key in self.keys.values():
            if key in obsm:
                del obsm[key]
        for rows, name, values in self._values():
            key = self.keys[name]
            if key not in obsm:
                shape = (self.cells, values.shape[1])
                chunks = (min(self.cells, 1024), shape[1])
                stored = obsm.create_dataset(key, shape, "f4", chunks=chunks, fillvalue=np.nan)
                stored.attrs["encoding-type"], stored.attrs["encoding-version"] = "array", "0.2.0"
            for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
                obsm[key][rows[run[0]] : rows[run[-1]] + 1] = values[run[0] : run[-1] + 1]
        obs = read_elem(group["obs"])
        for column, added in self.columns.items():
            obs[column] = added
        write_elem(group, "obs", obs)
        write_elem(group.require_group("uns"), "cellfm", dict(self.uns))

    def _values(self) -> Iterator[tuple[NDArray[np.int64], str, NDArray[np.float32]]]:
        for rows, values in self.parts:
            for name, one in values.items():
                yield rows, name, one


def write_h5ad(source: Path, output: Path, result: Result) -> None:
    """Write the cells of a file with a result to an h5ad file, beside and renamed.

    Of an h5ad file everything is kept, and only the result passes through memory. Other formats become an AnnData with
    the matrix, cells and genes that were read.
    """
    if _is_h5ad(source):
        with h5_beside(output, copy_of=source) as file:
            result.add_to_file(file)
    else:
        adata = read(source)
        result.add_to(adata)
        write_anndata(adata, output)


def _is_h5ad(path: Path, *, of_now: bool = True) -> bool:
    """Whether a file is an h5ad: one of anndata 0.7 or later, whose tables are groups, or any."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with damage_named(path):
        look_at(path)
    with h5py.File(path) as file:
        tables = [file.get(name) for name in ("obs", "var")]
        kinds = h5py.Group if of_now else h5py.Group | h5py.Dataset
        return "mod" not in file and all(isinstance(table, kinds) for table in tables)


def is_anndata(source: Path) -> bool:
    """Whether a file is an AnnData, of which :func:`read` gives all there is."""
    return source.suffix == ".zarr" or _is_h5ad(source, of_now=False)


def read(source: Path) -> anndata.AnnData:
    """Read a file of any known format into memory: all of an AnnData, the main matrix and its tables of others.

    Raises
    ------
    UserError
        If it is damaged.
    """
    if is_anndata(source):
        with damage_named(source):
            return anndata.read_zarr(source) if source.suffix == ".zarr" else anndata.read_h5ad(source)
    file: CellFile = open_file(source, lambda _: True)
    try:
        matrix, var = file.matrix(None)
        blocks = list(matrix.blocks(BLOCK))
        counts = sp.vstack(blocks, format="csr") if blocks else sp.csr_matrix(matrix.shape)
        return anndata.AnnData(counts, obs=pd.DataFrame(file.obs), var=pd.DataFrame(var))
    finally:
        file.close()
