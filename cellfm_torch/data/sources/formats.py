"""Which format a file has, by what is in it rather than by its name, and opening it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py

with suppress(ImportError):  # lets HDF5 read more kinds of compression
    import hdf5plugin  # noqa: F401

from cellfm_torch.data.sources.base import CellFile
from cellfm_torch.data.sources.damage import damage_named
from cellfm_torch.data.sources.probe import look_at
from cellfm_torch.errors import UserError

HDF5 = b"\x89HDF\r\n\x1a\n"
FOREIGN = {
    b"PK\x03\x04": "is a zip archive or an Excel file: unpack it, or save it as csv",
    b"RDX": "is an R object: write it as h5ad, or as a 10x mtx folder with DropletUtils::write10xCounts",
    b"X\n": "is an R object: write it as h5ad, or as a 10x mtx folder with DropletUtils::write10xCounts",
    b"PAR1": "is a parquet file without a column 'path': give counts as h5ad, zarr, 10x, loom, csv or tsv",
    b"%PDF": "is a PDF",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: unpack it",
}
"""What files that are no counts begin with."""

KNOWN = "h5ad, zarr, 10x h5, a 10x mtx folder, loom, csv or tsv"


def is_cell_folder(path: Path) -> bool:
    """Whether a folder is one file of cells: zarr, or Cell Ranger's matrix."""
    zarr = any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zattrs"))
    return zarr or any(p.name.endswith(("matrix.mtx", "matrix.mtx.gz")) for p in path.iterdir() if p.is_file())


def open_file(path: Path, is_gene: Callable[[str], bool]) -> CellFile:
    """Open a file or folder of any known format.

    Parameters
    ----------
    path
        What exists.
    is_gene
        Whether a name is that of a gene: tells rows from columns where a format does not.

    Raises
    ------
    UserError
        If its format is unknown, or it is damaged.
    """
    if path.is_dir():
        return _open_folder(path)
    kind = path.suffix.lstrip(".") if path.suffix in (".h5ad", ".h5", ".loom", ".h5mu") else ""
    with damage_named(path):
        with path.open("rb") as file:
            start = file.read(512)
        if start.startswith(HDF5) or h5py.is_hdf5(path):
            return _open_hdf5(path)
        if kind:
            raise UserError(f"{path}: is not {'a loom' if kind == 'loom' else 'an h5ad'} file: it is not HDF5 at all")
        if not start:
            raise UserError(f"{path}: is empty: copy or download it again")
        if path.name.endswith(".zarr.zip"):
            return _open_zarr(path)
    for magic, what in FOREIGN.items():
        if start.startswith(magic):
            raise UserError(f"{path}: {what}")
    return _open_text(path, is_gene)


def _open_folder(path: Path) -> CellFile:
    from cellfm_torch.data.sources.tenx import matrix_in, open_mtx

    if any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zattrs")):
        return _open_zarr(path)
    matrix = matrix_in(path)
    if matrix is None:
        raise UserError(f"{path}: is a folder: give its files as data.path='{path}/*.h5ad'")
    with damage_named(matrix):
        return open_mtx(matrix, given=path)


def _open_zarr(path: Path) -> CellFile:
    from cellfm_torch.data.sources.anndata_files import open_zarr

    with damage_named(path):
        return open_zarr(path)


def _open_hdf5(path: Path) -> CellFile:
    from cellfm_torch.data.sources.anndata_files import open_h5ad
    from cellfm_torch.data.sources.loom import LoomFile
    from cellfm_torch.data.sources.tenx import open_10x_h5

    with damage_named(path):
        look_at(path)
        with h5py.File(path) as file:
            names = set(file)
            inner = set(file["matrix"]) if isinstance(file.get("matrix"), h5py.Group) else set()
            tenx = "barcodes" in inner or any(
                {"barcodes", "indptr", "gene_names"} <= set(file[name])
                for name in names
                if isinstance(file.get(name), h5py.Group)
            )
        if {"matrix", "row_attrs", "col_attrs"} <= names:
            return LoomFile(path)
        return open_10x_h5(path) if tenx else open_h5ad(path)


def _open_text(path: Path, is_gene: Callable[[str], bool]) -> CellFile:
    from cellfm_torch.data.sources.tenx import open_mtx
    from cellfm_torch.data.sources.text import TextFile, open_text

    with damage_named(path):
        with open_text(path) as file:
            start = file.read(1 << 12)
        if start.startswith("%%MatrixMarket"):
            return open_mtx(path)
        if "\x00" in start:
            raise UserError(f"{path}: is of an unknown format: give {KNOWN}")
        if start.lstrip().startswith(("{", "<")):
            raise UserError(f"{path}: is not a table but {'JSON' if start.lstrip()[0] == '{' else 'a web page'}")
        return TextFile(path, is_gene)
