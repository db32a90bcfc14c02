"""What a path stands for: files, globs, folders that are files, and manifests."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from formats import WRITERS, mtx

from cellfm_torch.data.files import find_files, find_inputs
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.reader import read_cells
from cellfm_torch.errors import UserError

Make = Callable[..., anndata.AnnData]


@pytest.fixture
def folder(tmp_path: Path, synthetic_cells: Make) -> Path:
    """An h5ad file, a zarr, a csv, and a Cell Ranger folder."""
    for kind in ("h5ad csr", "zarr", "csv"):
        WRITERS[kind](synthetic_cells(), tmp_path)
    mtx(synthetic_cells(), tmp_path)
    return tmp_path


def test_globs_find_folders_that_are_files(folder: Path) -> None:
    names = ["cells.csv", "cells.h5ad", "cells.zarr", "filtered"]
    assert [path.name for path in find_files(folder / "*")] == names
    assert find_files(folder / "**" / "*.mtx") == [folder / "filtered" / "matrix.mtx"]
    # Files inside of a zarr are not files of cells; the tables beside a matrix belong to it.
    assert [path.name for path in find_files(f"{folder}/**")] == names


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "parquet"])
def test_manifest(
    kind: str, folder: Path, synthetic_counts: np.ndarray, synthetic_cells: Make, vocab: GeneVocab
) -> None:
    table = pd.DataFrame(
        {"donor": ["D1", "D2", "D3"], "path": ["cells.h5ad", str(folder / "filtered"), "*.csv"], "age": [40, 50, 60]}
    )
    manifest = folder / "lists" / f"manifest.{kind}"
    manifest.parent.mkdir()
    table["path"] = [path if path.startswith("/") else f"../{path}" for path in table["path"]]
    if kind == "parquet":
        table.to_parquet(manifest)
    else:
        table.to_csv(manifest, sep="\t" if kind == "tsv" else ",", index=False)
    cells = read_cells(manifest, vocab)
    np.testing.assert_array_equal(cells.counts.toarray(), np.vstack([synthetic_counts] * 3))
    assert cells.obs["donor"].tolist() == np.repeat(["D1", "D2", "D3"], 40).tolist()
    assert cells.obs["age"].tolist() == np.repeat([40, 50, 60], 40).tolist()
    assert cells.obs["source_file"].unique().tolist() == ["cells.h5ad", "filtered", "cells.csv"]


def test_wrong_manifests(folder: Path) -> None:
    manifest = folder / "manifest.csv"
    for content, message in (
        ("path,donor\ncells.h5ad,D1\ncels.h5ad,D2\n", "row 3: .*cels.h5ad: no such file; did you mean 'cells.h5ad'"),
        ("path,donor\ncells.h5ad,D1\n,D2\n", "row 3 names no file"),
        ("path,donor\n", "manifest.csv: names no file"),
    ):
        manifest.write_text(content)
        with pytest.raises(UserError, match=message):
            find_inputs(manifest)
    pd.DataFrame({"file": ["a"]}).to_parquet(folder / "m.parquet")
    with pytest.raises(UserError, match=r"m.parquet: has no column 'path' \(it has file\)"):
        find_inputs(folder / "m.parquet")
    (folder / "n.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"n.parquet: is damaged or not a valid manifest"):
        find_inputs(folder / "n.parquet")


def test_files_of_one_name_are_told_apart(tmp_path: Path, synthetic_cells: Make, vocab: GeneVocab) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        mtx(synthetic_cells(), tmp_path / name)
    obs = read_cells(tmp_path / "*" / "filtered", vocab).obs
    assert obs["source_file"].unique().tolist() == [str(tmp_path / name / "filtered") for name in "ab"]


def test_each_once(folder: Path) -> None:
    assert len(find_files([folder / "cells.h5ad", folder / "*.h5ad", str(folder / "cells.h5ad")])) == 1


def test_compressed_by_content(tmp_path: Path, synthetic_cells: Make, vocab: GeneVocab) -> None:
    """A packed table is recognised whatever its name says."""
    plain = WRITERS["csv"](synthetic_cells(), tmp_path)
    packed = tmp_path / "packed.csv"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert len(read_cells(packed, vocab)) == 40
