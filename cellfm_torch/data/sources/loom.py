"""Loom files (genes in rows), read in blocks through h5py: loompy, which reads them otherwise, is no longer kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import pandas as pd

from cellfm_torch.data.sources.base import DenseMatrix, Matrix, NoMatrixError, text

GENE_NAMES = ("Gene", "gene", "var_names", "gene_name", "gene_names", "GeneName", "Accession", "gene_ids")
CELL_NAMES = ("CellID", "cell_id", "obs_names", "cell_names", "barcode", "Barcode", "barcodes")


class LoomFile:
    """A loom file that stays on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = h5py.File(path)
        self.layers = tuple(sorted(self._file["layers"])) if "layers" in self._file else ()
        genes, cells = self._file["matrix"].shape
        self._var = _attributes(self._file["row_attrs"], genes, GENE_NAMES)
        self.obs = _attributes(self._file["col_attrs"], cells, CELL_NAMES)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def matrix(self, layer: str | None) -> tuple[Matrix, pd.DataFrame]:
        """Return the main matrix or a layer."""
        if layer is not None and layer not in self.layers:
            raise NoMatrixError(layer)
        stored = self._file["matrix"] if layer is None else self._file["layers"][layer]
        matrix = DenseMatrix(stored, transposed=True)
        if matrix.shape != (len(self.obs), len(self._var)):
            raise ValueError(f"its matrix is {matrix.shape}, its tables are of {len(self.obs)} and {len(self._var)}")
        return matrix, self._var


def _attributes(group: Any, number: int, names: tuple[str, ...]) -> pd.DataFrame:
    """Return the attributes with one value per row or column; the first of `names` that is there becomes the index."""
    values = {name: group[name][...] for name in group if group[name].shape == (number,)}
    table = pd.DataFrame(
        {name: text(column) if column.dtype.kind in "SO" else column for name, column in values.items()},
        index=pd.RangeIndex(number).astype(str),
    )
    index = next((name for name in names if name in table), None)
    return table if index is None else table.set_index(table[index].astype(str).to_numpy()).drop(columns=index)
