"""Every format gives the same cells, block by block, and what can be wrong with each is one line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from formats import WRITERS, mtx, tenx_h5, tenx_h5_v2

from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.reader import read_cells
from cellfm_torch.data.source import open_source
from cellfm_torch.data.sources import base
from cellfm_torch.errors import UserError

Make = Callable[..., anndata.AnnData]


@pytest.mark.parametrize("kind", WRITERS)
def test_formats(
    kind: str, tmp_path: Path, synthetic_counts: np.ndarray, synthetic_cells: Make, vocab: GeneVocab
) -> None:
    path = WRITERS[kind](synthetic_cells(), tmp_path)
    for size in (7, 40, 4096):
        with open_source(path, vocab) as source:
            blocks = list(source.blocks(size))
            assert source.n_cells == 40 and len(source.var) == 60
            assert list(source.obs.index) == [f"cell{i}" for i in range(40)]
            assert source.report().cells_kept == 40
        assert [block.start for block in blocks] == list(range(0, 40, size))
        assert all(block.counts.shape[0] == size for block in blocks[:-1])
        for each in ("counts", "rescaled"):
            np.testing.assert_array_equal(
                sp.vstack([getattr(block, each) for block in blocks]).toarray(), synthetic_counts
            )
        np.testing.assert_array_equal(np.concatenate([block.totals for block in blocks]), synthetic_counts.sum(1))
    cells = read_cells(path, vocab)
    np.testing.assert_array_equal(cells.counts.toarray(), synthetic_counts)
    assert cells.counts.dtype == np.int32
    assert set(cells.obs["source_file"]) == {path.name}


def test_annotations_come_along(tmp_path: Path, synthetic_cells: Make, vocab: GeneVocab) -> None:
    for kind in ("h5ad csr", "zarr", "loom"):
        obs = read_cells(WRITERS[kind](synthetic_cells(), tmp_path), vocab).obs
        assert obs["cell_type"].astype(str).tolist() == synthetic_cells().obs["cell_type"].tolist()


def test_layers(tmp_path: Path, synthetic_counts: np.ndarray, synthetic_cells: Make, vocab: GeneVocab) -> None:
    loom = WRITERS["loom"](synthetic_cells(), tmp_path)
    np.testing.assert_array_equal(read_cells(loom, vocab, layer="twice").counts.toarray(), 2 * synthetic_counts)
    with pytest.raises(UserError, match="no layer 'twise' .it has twice.; did you mean 'twice'"):
        read_cells(loom, vocab, layer="twise")
    with pytest.raises(UserError, match="has no layer 'umi' .it has X only"):
        read_cells(WRITERS["csv"](synthetic_cells(), tmp_path), vocab, layer="umi")


@pytest.mark.parametrize("write", [tenx_h5, mtx])
def test_proteins_are_no_genes(write: Callable, tmp_path: Path, synthetic_cells: Make, vocab: GeneVocab) -> None:
    path = write(synthetic_cells(), tmp_path, **({"packed": True} if write is mtx else {}))
    if write is tenx_h5:
        with h5py.File(path, "r+") as file:
            kinds = file["matrix/features/feature_type"][:].astype("S30")
            kinds[:5] = b"Antibody Capture"
            del file["matrix/features/feature_type"]
            file["matrix/features/feature_type"] = kinds
    else:
        with gzip.open(path / "features.tsv.gz", "rt") as file:
            lines = file.read().splitlines()
        lines[:5] = [line.replace("Gene Expression", "Antibody Capture") for line in lines[:5]]
        with gzip.open(path / "features.tsv.gz", "wt") as file:
            file.write("\n".join(lines) + "\n")
    counts = synthetic_cells().X.toarray()[:, 5:]
    cells = read_cells(path, vocab)
    assert not cells.counts[:, :5].nnz and cells.reports[0].genes_read == 55
    np.testing.assert_array_equal(cells.totals, counts.sum(1))


@pytest.mark.parametrize("entries", [50, 400])
def test_genes_in_columns_without_holding_all_of_them(
    entries: int,
    synthetic_counts: np.ndarray,
    synthetic_cells: Make,
    write: Callable,
    vocab: GeneVocab,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The matrix has some 1,400 entries: several passes over it, each in several pieces."""
    monkeypatch.setattr(base, "MEMORY", entries)
    monkeypatch.setattr(base, "PIECE", 61)
    path = write(synthetic_cells(sp.csc_matrix(synthetic_counts.astype(np.float32))))
    for size in (1, 9, 40):
        with open_source(path, vocab, ReadOptions(min_genes=0)) as source:
            blocks = [block.counts for block in source.blocks(size)]
        assert [block.shape[0] for block in blocks] == [size] * (40 // size) + ([40 % size] if 40 % size else [])
        np.testing.assert_array_equal(sp.vstack(blocks).toarray(), synthetic_counts)


def test_matrix_stays_on_disk(
    synthetic_cells: Make, write: Callable, vocab: GeneVocab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of 4 cells takes only their entries from the file."""
    path = write(synthetic_cells())
    taken = []
    original = h5py.Dataset.__getitem__

    def counted(self: h5py.Dataset, *arguments: object) -> object:
        value = original(self, *arguments)
        if self.name == "/X/data":
            taken.append(np.size(value))
        return value

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    with open_source(path, vocab) as source:
        block = next(source.blocks(4))
    assert sum(taken) == block.counts.nnz


def test_text_with_annotations(tmp_path: Path, synthetic_counts: np.ndarray, vocab: GeneVocab) -> None:
    """Columns of words, and of numbers that are known to be no genes, annotate cells; a first column may be missing."""
    frame = pd.DataFrame(synthetic_counts, columns=list(vocab.symbols))
    frame.insert(0, "cell_type", ["B", "T"] * 20)
    frame.insert(1, "n_counts", synthetic_counts.sum(1))
    frame.index = pd.Index([f"c{i}" for i in range(40)])
    frame.to_csv(tmp_path / "cells.csv")
    cells = read_cells(tmp_path / "cells.csv", vocab)
    np.testing.assert_array_equal(cells.counts.toarray(), synthetic_counts)
    np.testing.assert_array_equal(cells.totals, synthetic_counts.sum(1))
    assert cells.obs["cell_type"].tolist() == ["B", "T"] * 20
    assert cells.obs["n_counts"].tolist() == synthetic_counts.sum(1).tolist()
    frame[list(vocab.symbols)].to_csv(tmp_path / "bare.csv", index=False)
    np.testing.assert_array_equal(read_cells(tmp_path / "bare.csv", vocab).counts.toarray(), synthetic_counts)
    genes = frame[list(vocab.symbols)].T
    genes.insert(0, "id", [f"x{i}" for i in range(60)])
    genes.to_csv(tmp_path / "genes.tsv", sep="\t")
    np.testing.assert_array_equal(read_cells(tmp_path / "genes.tsv", vocab).counts.toarray(), synthetic_counts)


def test_old_h5ad(tmp_path: Path, synthetic_counts: np.ndarray, vocab: GeneVocab) -> None:
    """Files of anndata before 0.7 keep their tables as records."""
    csr = sp.csr_matrix(synthetic_counts.astype(np.float32))
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        group = file.create_group("X")
        group["data"], group["indices"], group["indptr"] = csr.data, csr.indices, csr.indptr
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", csr.shape
        for name, values in (("obs", [f"c{i}" for i in range(40)]), ("var", vocab.symbols)):
            file[name] = np.array([(v.encode(),) for v in values], dtype=[("index", "S30")])
    cells = read_cells(tmp_path / "old.h5ad", vocab)
    np.testing.assert_array_equal(cells.counts.toarray(), synthetic_counts)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "cell,A1BG,A1CF\nc1,3,x\nc2,3,4\n", r"line 2, column 'A1CF': 'x' is not a number"),
        ("a.csv", "c1;3;4\n", "is not a table of counts"),
        ("a.csv", "cell,A1BG,A1CF\nc1,3,4\nc2,3,4,5\n", "is damaged or not a valid csv .*Expected 3 fields in line 3"),
        ("a.csv", "cell,A1BG,A1CF,A2M\nc1,3\n", "names 4 columns but has 2"),
        ("a.csv", "cell,A1BG,A1CF\nc1,3,\n", "nan for gene A1CF in cell c1 is not finite"),
        ("a.csv", "cell,foo,bar\nc1,3,4\n", r"has genes neither in its columns \(foo, bar\) nor in its rows \(c1\)"),
        ("a.csv", "", "is empty"),
        ("a.csv", "{}", "is not a table but JSON"),
        ("a.h5", "text", "is not an h5ad file: it is not HDF5 at all"),
        ("a.loom", "text", "is not a loom file"),
        ("a.rds", "X\n123", "is an R object"),
        ("a.xlsx", "PK\x03\x04", "is a zip archive or an Excel file"),
        ("a.bin", "\x00\x01\x02", "is of an unknown format: give h5ad, zarr"),
        ("matrix.mtx", "%%MatrixMarket matrix coordinate integer general\n1 1 1\n1 1 1\n", "there is no features.tsv"),
        ("cells.mtx", "%%MatrixMarket matrix coordinate integer general\n1 1 1\n1 1 1\n", "is not named matrix.mtx"),
    ],
)
def test_wrong_files(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_cells(tmp_path / name, GeneVocab(["A1BG", "A1CF", "A2M"]), min_genes=0)


@pytest.mark.parametrize("kind", ["integer", "real", "array"])
def test_matrix_market(kind: str, tmp_path: Path, synthetic_cells: Make, vocab: GeneVocab) -> None:
    adata = synthetic_cells()
    folder = mtx(adata, tmp_path)
    expected = read_cells(folder, vocab).counts
    counts = scipy.sparse.coo_matrix(adata.X).T.astype(float if kind == "real" else int)
    with (folder / "matrix.mtx").open("wb") as file:
        scipy.io.mmwrite(file, counts.toarray() if kind == "array" else counts, comment="a\nb")
    assert f" {'array integer' if kind == 'array' else f'coordinate {kind}'} " in (folder / "matrix.mtx").read_text()
    assert (read_cells(folder, vocab).counts != expected).nnz == 0


def test_wrong_folders(tmp_path: Path, synthetic_cells: Make, vocab: GeneVocab) -> None:
    folder = mtx(synthetic_cells(), tmp_path)
    (folder / "matrix.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n3 2 1\n1 1 1\n")
    with pytest.raises(UserError, match=r"filtered/matrix.mtx: .*its matrix is \(3, 2\), its tables are of 40 and 60"):
        read_cells(folder, vocab)
    size, first = "40 60 2", "%%MatrixMarket matrix coordinate integer general\n"
    for text, wrong in (
        (first + f"{size}\n1 1 1\n", "it has 1 entries and says that it has 2"),
        (first + f"{size}\n1 1 1\n41 1 1\n", "an entry lies outside of its 40 rows or columns"),
        (first + f"{size}\n1 1 1\n0 1 1\n", "an entry lies outside"),
        (first + f"{size}\n1 1 1\n1 2 x\n", "invalid literal"),
        (first + "40 60\n1 1 1\n", "its line of sizes is '40 60'"),
        (first.replace("integer", "complex") + f"{size}\n1 1 1\n1 2 1\n", "it is complex general: counts are"),
        # Its body of blanks made SciPy's reader write beyond its arrays, and the process end.
        (first + f"{size}\n1 1 1\n" + " " * 5000 + "\n2 1 1 1 1\n", "Expected 3 fields"),
    ):
        (folder / "matrix.mtx").write_text(text)
        with pytest.raises(UserError, match=f"filtered/matrix.mtx: .*{wrong}"):
            read_cells(folder, vocab)
    (folder / "other_matrix.mtx").touch()
    with pytest.raises(UserError, match="has 2 matrices"):
        read_cells(folder, vocab)
    path = tenx_h5_v2(synthetic_cells(), tmp_path)
    with h5py.File(path, "r+") as file:
        file.copy("hg19", "mm10")
        file.move("hg19", "xx10")
    with pytest.raises(UserError, match=r"has several genomes \(mm10, xx10\)"):
        read_cells(path, vocab)


@pytest.mark.parametrize("change", ["order", "beyond", "negative", "short"])
def test_damaged_index_is_not_followed(change: str, synthetic_cells: Make, write: Callable, vocab: GeneVocab) -> None:
    """SciPy would read and write wherever such an index points."""
    path = write(synthetic_cells())
    with h5py.File(path, "r+") as file:
        if change == "order":
            file["X/indptr"][3] = file["X/indptr"][5]
            file["X/indptr"][4] = 0
        elif change == "beyond":
            file["X/indices"][7] = 60
        elif change == "negative":
            file["X/indices"][7] = -1
        else:
            file["X/indptr"][40] += 1000
    with pytest.raises(UserError, match=r"cells.h5ad: is damaged or not a valid h5ad \(its index"):
        read_cells(path, vocab)
