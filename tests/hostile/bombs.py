"""A few kilobytes that stand for gigabytes."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import torch
from formats import WRITERS
from harness import Case, judged
from mutations import cells as made_cells

from cellfm_torch.convert import scf_ckpt
from cellfm_torch.data.gene_table import COLUMNS, MARK, GeneTable
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.hgnc import read_hgnc
from cellfm_torch.data.reader import read_cells

GENES = list(GeneVocab.bundled(24078).symbols[500:560])
PART = 1 << 26
PARTS = 40
"""Of so many bytes each: 2.7 GB, more than a reader may take."""


def _cells() -> anndata.AnnData:
    return made_cells(GENES, np.random.default_rng(0))


def _packed(start: bytes, part: bytes, end: bytes = b"") -> bytes:
    """Return gigabytes of one part, as gzip: its members follow one another."""
    return gzip.compress(start) + gzip.compress(part * (PART // len(part))) * PARTS + gzip.compress(end)


def _read(path: Path) -> None:
    read_cells(path, GeneVocab(GENES), min_genes=1)


def long_header(folder: Path) -> Callable[[], object]:
    path = folder / "bomb.csv.gz"
    path.write_bytes(_packed(b"cell", b"x"))
    return lambda: _read(path)


def long_line(folder: Path) -> Callable[[], object]:
    path = folder / "bomb.csv.gz"
    path.write_bytes(_packed(("cell," + ",".join(GENES) + "\nc0,").encode(), b"1"))
    return lambda: _read(path)


def many_fields(folder: Path) -> Callable[[], object]:
    path = folder / "bomb.csv.gz"
    path.write_bytes(_packed(("cell," + ",".join(GENES) + "\nc0").encode(), b",1"))
    return lambda: _read(path)


def matrix_of_nothing(folder: Path) -> Callable[[], object]:
    path = WRITERS["mtx"](_cells(), folder)
    matrix = next(path.rglob("matrix.mtx")) if path.is_dir() else path
    size = f"60 30 {1 << 40}"
    matrix.write_text(f"%%MatrixMarket matrix coordinate integer general\n{size}\n1 1 1\n")
    return lambda: _read(path)


def names_of_cells(folder: Path) -> Callable[[], object]:
    path = WRITERS["mtx.gz"](_cells(), folder)
    (next(folder.rglob("barcodes.tsv.gz"))).write_bytes(_packed(b"", b"x"))
    return lambda: _read(path)


def annotation(folder: Path) -> Callable[[], object]:
    """4 GB of zeros in a column of obs, which HDF5 packs a thousand to one."""
    path = WRITERS["h5ad csr"](_cells(), folder)
    with h5py.File(path, "r+") as file:
        file["obs"].create_dataset(
            "x", shape=(1 << 32,), dtype="i1", chunks=(1 << 20,), compression="gzip", fillvalue=0
        )
        for i in range(0, 1 << 32, 1 << 28):
            file["obs"]["x"][i : i + (1 << 20)] = 0
        file["obs"]["x"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        file["obs"].attrs["column-order"] = np.array(["cell_type", "x"], dtype=object)
    return lambda: _read(path)


def one_cell(folder: Path) -> Callable[[], object]:
    """A cell with more entries than there are genes."""
    path = WRITERS["h5ad csr"](_cells(), folder)
    entries = 1 << 29
    with h5py.File(path, "r+") as file:
        for name in ("data", "indices"):
            attributes = dict(file["X"][name].attrs)
            dtype = file["X"][name].dtype
            del file["X"][name]
            made = file["X"].create_dataset(name, shape=(entries,), dtype=dtype, chunks=(1 << 20,), compression="gzip")
            for i in range(0, entries, 1 << 25):
                made[i : i + (1 << 20)] = 1
            made.attrs.update(attributes)
        starts = file["X"]["indptr"][...]
        starts[1:] = entries
        file["X"]["indptr"][...] = starts
    return lambda: _read(path)


def zarr_shape(folder: Path) -> Callable[[], object]:
    """A column of obs that claims a million million values, none of them stored."""
    path = folder / "bomb.zarr"
    _cells().write_zarr(path)
    changed = 0
    for meta in [*(path / "obs").rglob(".zarray"), *(path / "obs").rglob("zarr.json")]:
        about = json.loads(meta.read_text())
        if "shape" in about and about["shape"] == [30]:
            about["shape"] = [1 << 40]
            meta.write_text(json.dumps(about))
            changed += 1
    assert changed
    (path / ".zmetadata").unlink(missing_ok=True)
    return lambda: _read(path)


def gene_table(folder: Path) -> Callable[[], object]:
    path = folder / "genes.tsv.gz"
    path.write_bytes(_packed(f"{MARK} x\n{chr(9).join(COLUMNS)}\n".encode(), b"x\t\t\t\n\n\n\n"))
    return lambda: GeneTable.load(path)


def hgnc(folder: Path) -> Callable[[], object]:
    path = folder / "hgnc.txt.gz"
    path.write_bytes(_packed(b"symbol\tensembl_gene_id\tprev_symbol\talias_symbol\n", b"x"))
    return lambda: read_hgnc(path)


def checkpoint(folder: Path) -> Callable[[], object]:
    """torch.save stores tensors as they are; this one is packed."""
    plain, path = io.BytesIO(), folder / "models.ckpt"
    torch.save({"cell": {"config": {}, "state_dict": {"x": torch.zeros(4)}}}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for item in old.infolist():
            with new.open(item.filename, "w", force_zip64=True) as member:
                member.write(old.read(item))
                if item.filename.endswith("data.pkl"):
                    for _ in range(PARTS):
                        member.write(bytes(PART))
    return lambda: scf_ckpt.read_part(path, "cell")


BOMBS = (
    long_header, long_line, many_fields, matrix_of_nothing, names_of_cells, annotation, one_cell, zarr_shape,
    gene_table, hgnc, checkpoint,
)  # fmt: skip


def bomb(number: int, folder: Path) -> Case:
    """Make a bomb and read it."""
    make = BOMBS[number]
    read = make(folder)

    def check() -> str:
        read()
        return "it was read"

    try:
        return judged(make.__name__, check, (folder.name,))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
