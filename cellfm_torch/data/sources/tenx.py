"""Counts as Cell Ranger writes them: HDF5 files of version 2 and 3, and folders with a Matrix Market file.

HDF5 is read in blocks through h5py (scanpy's readers, which do the same, hold the whole file); Matrix Market is text
that has to be read as a whole, through pandas.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import h5py
import pandas as pd

from cellfm_torch.data.sources.base import Matrix, MemoryMatrix, NoMatrixError, RowMatrix, text
from cellfm_torch.data.sources.matrix_market import read_matrix
from cellfm_torch.data.sources.text import open_text
from cellfm_torch.errors import UserError

FEATURE_TABLES = ("features.tsv.gz", "features.tsv", "genes.tsv.gz", "genes.tsv")
BARCODES = ("barcodes.tsv.gz", "barcodes.tsv")
MATRICES = ("matrix.mtx.gz", "matrix.mtx")


class OneMatrix:
    """A file with one matrix and nothing else."""

    layers: tuple[str, ...] = ()

    def __init__(
        self, path: Path, matrix: Matrix, obs: pd.DataFrame, var: pd.DataFrame, *, file: h5py.File | None = None
    ) -> None:
        if matrix.shape != (len(obs), len(var)):
            raise ValueError(f"its matrix is {matrix.shape}, its tables are of {len(obs)} and {len(var)}")
        self.path = path
        self.obs = obs
        self._matrix, self._var, self._open = matrix, var, file

    def close(self) -> None:
        """Close the file."""
        if self._open is not None:
            self._open.close()

    def matrix(self, layer: str | None) -> tuple[Matrix, pd.DataFrame]:
        """Return the matrix."""
        if layer is not None:
            raise NoMatrixError(layer)
        return self._matrix, self._var


def open_10x_h5(path: Path) -> OneMatrix:
    """Open an HDF5 file of Cell Ranger."""
    file = h5py.File(path)
    if "matrix" in file:
        group, features = file["matrix"], file["matrix"]["features"]
        names, columns = features["name"], {"gene_ids": features["id"]}
        columns |= {
            column: features[stored]
            for column, stored in {"feature_types": "feature_type", "genome": "genome"}.items()
            if stored in features
        }
    else:
        genomes = [name for name in file if "indptr" in file[name]]
        human = [name for name in genomes if name.startswith(("GRCh", "hg"))]
        if len(genomes) > 1 and len(human) != 1:
            raise UserError(f"{path}: has several genomes ({', '.join(genomes)}): write one of them to a file")
        group = file[(human or genomes)[0]]
        names, columns = group["gene_names"], {"gene_ids": group["genes"]}
    var = pd.DataFrame({column: text(values[...]) for column, values in columns.items()}, index=text(names[...]))
    obs = pd.DataFrame(index=text(group["barcodes"][...]))
    genes, cells = (int(number) for number in group["shape"][...])
    # Stored as genes by cells and sorted by cell: what is their column is our row.
    matrix = RowMatrix(group["data"], group["indices"], group["indptr"], (cells, genes))
    return OneMatrix(path, matrix, obs, var, file=file)


def matrix_in(folder: Path) -> Path | None:
    """Return the Matrix Market file of a Cell Ranger folder, or None if it is no such folder."""
    there = sorted(p for p in folder.iterdir() if p.is_file() and p.name.endswith(MATRICES))
    if len(there) > 1:
        raise UserError(
            f"{folder}: has {len(there)} matrices ({there[0].name}, {there[1].name} ...): give them as "
            f"data.path='{folder}/*matrix.mtx*'"
        )
    return there[0] if there else None


def open_mtx(path: Path, *, given: Path | None = None) -> OneMatrix:
    """Open a Matrix Market file with the tables of genes and cells beside it; it may have been given by its folder."""
    prefix = next((path.name.removesuffix(end) for end in MATRICES if path.name.endswith(end)), None)
    if prefix is None:
        raise UserError(f"{path}: is not named matrix.mtx: give the folder with matrix.mtx, features.tsv, barcodes.tsv")
    features = _beside(path, prefix, FEATURE_TABLES)
    var = _table(features)
    obs = _table(_beside(path, prefix, BARCODES))[[0]].set_index(0)
    obs.index.name = None
    ids = var[0].to_numpy()
    columns = {"gene_ids": ids} | ({"feature_types": var[2].to_numpy()} if 2 in var else {})
    genes = pd.DataFrame(columns, index=var[1 if 1 in var else 0].to_numpy())
    csr = read_matrix(path, len(obs), len(genes))
    if csr.shape == (len(genes), len(obs)):  # as Cell Ranger has it; other programs write cells by genes
        csr = csr.T.tocsr()
    return OneMatrix(given or path, MemoryMatrix(csr), obs, genes)


def _beside(path: Path, prefix: str, names: tuple[str, ...]) -> Path:
    for name in names:
        if (neighbour := path.with_name(prefix + name)).is_file():
            return neighbour
    raise UserError(f"{path}: there is no {prefix}{names[1]} beside it: a 10x matrix needs its three files")


def _table(path: Path) -> pd.DataFrame:
    try:
        with open_text(path) as file:
            table = pd.read_csv(file, sep="\t", header=None, dtype=str, quoting=3, keep_default_na=False)
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: is empty: copy or download it again") from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:150]}): copy it again") from None
    return table
