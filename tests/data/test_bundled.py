"""The bundled cells: real counts, and cell types that the marker rule gives again."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from cellfm_torch.data.bundled import make_pbmc3k
from cellfm_torch.paths import PBMC3K


@pytest.fixture(scope="module")
def pbmc3k() -> anndata.AnnData:
    return anndata.read_h5ad(PBMC3K)


def test_counts_are_those_of_the_source(pbmc3k: anndata.AnnData) -> None:
    counts = pbmc3k.X
    assert isinstance(counts, sp.csr_matrix)
    assert counts.dtype == np.float32
    assert counts.shape == (2700, 32738)
    assert counts.has_sorted_indices
    assert (counts.data > 0).all()
    assert (counts.data == np.floor(counts.data)).all()
    # Of the matrix 10x Genomics published: counts, and entries that are not 0.
    assert counts.sum(dtype=np.float64) == 6_390_631
    assert counts.nnz == 2_286_884
    assert list(pbmc3k.var_names[:3]) == ["MIR1302-10", "FAM138A", "OR4F5"]
    assert pbmc3k.var_names.is_unique
    assert pbmc3k.obs_names.is_unique


def test_nothing_else_travels_with_them(pbmc3k: anndata.AnnData) -> None:
    assert list(pbmc3k.obs) == ["cell_type"]
    assert list(pbmc3k.var) == []
    assert set(pbmc3k.uns) == {"source", "licence"}
    assert "CC BY 4.0" in pbmc3k.uns["licence"]
    assert not pbmc3k.layers and not pbmc3k.obsm and pbmc3k.raw is None
    assert PBMC3K.stat().st_size < 5e6


def test_rule_gives_the_same_types_again(pbmc3k: anndata.AnnData) -> None:
    types = make_pbmc3k.assign_cell_types(pbmc3k.X, pbmc3k.var_names)
    assert tuple(types.categories) == make_pbmc3k.CELL_TYPES
    assert tuple(pbmc3k.obs["cell_type"].cat.categories) == make_pbmc3k.CELL_TYPES
    assert list(types) == list(pbmc3k.obs["cell_type"])
    assert types.value_counts().min() >= 14


def test_command_writes_the_same_file_and_compares(
    pbmc3k: anndata.AnnData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {ours: theirs for theirs, ours in make_pbmc3k.REFERENCE_NAMES.items()}
    reference = anndata.AnnData(obs=pbmc3k.obs.astype(object).replace({"cell_type": names}).iloc[:100])
    reference.obs.iloc[:2, 0] = "unlabelled"
    reference.write_h5ad(tmp_path / "labels.h5ad")
    output = tmp_path / "out.h5ad"
    code = make_pbmc3k.main([str(PBMC3K), "--labels", str(tmp_path / "labels.h5ad"), "--output", str(output)])
    assert code == 0
    written = anndata.read_h5ad(output)
    assert (written.X != pbmc3k.X).nnz == 0
    assert written.obs.equals(pbmc3k.obs)
    assert written.var.equals(pbmc3k.var)
    assert written.uns == pbmc3k.uns
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.h5ad", "out.h5ad"]
    printed = capsys.readouterr().out
    assert "98 of 2700 cells labelled" in printed
    assert "accuracy 1.000" in printed


def test_command_refuses_what_is_not_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    anndata.AnnData(sp.csr_matrix(np.array([[0.5, 1.0]], dtype=np.float32))).write_h5ad(tmp_path / "in.h5ad")
    assert make_pbmc3k.main([str(tmp_path / "in.h5ad"), "--output", str(tmp_path / "out.h5ad")]) == 2
    assert "raw counts" in capsys.readouterr().err
    assert make_pbmc3k.main([str(tmp_path / "none.h5ad"), "--output", str(tmp_path / "out.h5ad")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "out.h5ad").exists()
