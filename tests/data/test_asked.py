"""Totals and target depths: from counts, from values whose counts can be recovered, and from a column where not.

Shapes: C = 40 cells, G = 60 genes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from cellfm_torch.batch import CellBatch, InputSpec
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.module import CellDataModule
from cellfm_torch.errors import UserError

Make = Callable[..., CellDataModule]
READS_DEPTH = {"read_depth": True, "target_depth": "t4", "max_genes": None}


@pytest.fixture
def log_normalised(
    synthetic_counts: np.ndarray, synthetic_cells: Callable[..., anndata.AnnData], write: Callable[..., Path]
) -> Path:
    """The synthetic cells as log1p(CP10k), their totals in a column of obs."""
    adata = synthetic_cells(sp.csr_matrix(np.log1p(synthetic_counts / synthetic_counts.sum(1, keepdims=True) * 1e4)))
    adata.obs["total"] = synthetic_counts.sum(1)
    adata.obs["few"] = np.where(np.arange(40) == 3, 0, 1000)
    return write(adata, "log.h5ad")


@pytest.fixture
def make(cells_file: Path, vocab: GeneVocab) -> Make:
    def make(path: Path = cells_file, *, spec: dict[str, Any] = READS_DEPTH, **options: Any) -> CellDataModule:
        defaults = {"min_genes": 0, "token_budget": 10_000}
        return CellDataModule(path, input_spec=InputSpec(genes=vocab.symbols, **spec), **(defaults | options))

    return make


def cells(module: CellDataModule) -> CellBatch:
    (batch,) = module.predict_dataloader()
    return batch


@pytest.mark.parametrize(
    ("rule", "t"), [(None, lambda s: 0 * s + 1e4), ("t3", lambda s: 0 * s + 1e3), ("f2", lambda s: 2 * s)]
)
def test_depths_of_counts(make: Make, synthetic_counts: np.ndarray, rule: str | None, t: Callable[..., Any]) -> None:
    totals = synthetic_counts.sum(1)
    batch = cells(make(target_depth=rule))
    np.testing.assert_array_equal(batch.read_depth[:, 0], totals)
    np.testing.assert_allclose(batch.read_depth[:, 1], t(totals), rtol=1e-6)  # float32
    (held_out,) = make(target_depth=rule, downsample=False).val_dataloader()  # in training T is the cell's own total
    np.testing.assert_array_equal(held_out.read_depth[:, 1], totals[held_out.cell_index])


def test_recovered_totals_are_those_of_the_counts(
    make: Make, log_normalised: Path, synthetic_counts: np.ndarray
) -> None:
    ours, theirs = cells(make(log_normalised, counts="recover")), cells(make())
    np.testing.assert_array_equal(ours.read_depth, theirs.read_depth)
    np.testing.assert_array_equal(ours.values, theirs.values)


def test_lost_totals_are_asked_for(make: Make, log_normalised: Path, synthetic_counts: np.ndarray) -> None:
    for options, says in (
        ({}, "reads the total counts of cells, and data.counts=normalised has none: name the column of obs"),
        ({"totals": "total", "downsample": True}, "data.downsample=true needs counts"),
        ({"totals": "totals"}, r"data.totals=totals: no such column in obs \(it has .*\); did you mean 'total'"),
        ({"totals": "cell_type"}, "data.totals=cell_type: is B for cell 1 of those kept"),
        ({"totals": "few"}, "data.totals=few: is 0 for cell 4 of those kept; totals are counts, at least 1"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            cells(make(log_normalised, counts="normalised", **options))
        assert "\n" not in str(caught.value)
    batch = cells(make(log_normalised, counts="normalised", totals="total", target_depth="a1"))
    totals = synthetic_counts.sum(1)
    np.testing.assert_array_equal(batch.read_depth[:, 0], totals)
    np.testing.assert_allclose(batch.read_depth[:, 1], 10.0 * totals, rtol=1e-6)
    # 1e8 parts a cell: the smallest of some 1e4 in a cell is off by at most 1e-4 of itself.
    np.testing.assert_allclose(batch.values, cells(make()).values, rtol=1e-4)


def test_models_without_depths_need_no_totals(make: Make, log_normalised: Path) -> None:
    batch = cells(make(log_normalised, spec={}, counts="normalised"))
    assert batch.read_depth is None
    np.testing.assert_allclose(batch.values, cells(make(spec={})).values, rtol=1e-4)


def test_values_that_are_no_logarithms(
    make: Make,
    synthetic_counts: np.ndarray,
    synthetic_cells: Callable[..., anndata.AnnData],
    write: Callable[..., Path],
) -> None:
    path = write(synthetic_cells(synthetic_counts * 1000.5), "huge.h5ad")
    with pytest.raises(UserError, match="values of cell cell0 are too large to be log1p"):
        cells(make(path, counts="normalised", totals="depth"))


def test_cells_without_counts_are_told_of(
    make: Make,
    synthetic_counts: np.ndarray,
    synthetic_cells: Callable[..., anndata.AnnData],
    write: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    counts = synthetic_counts.copy()
    counts[[2, 9]] = 0
    path = write(synthetic_cells(sp.csr_matrix(counts)), "empty.h5ad")
    module = make(path, min_genes=1)
    batch = cells(module)
    assert batch.num_cells == 38 and (batch.lengths > 0).all()
    assert "cells dropped: 2" in " ".join(capsys.readouterr().out.split())
    assert [name for name in synthetic_cells().obs_names if name not in module.cells.names] == ["cell2", "cell9"]
    # With min_genes=0 they stay among the cells, and no batch has them.
    module = make(path, min_genes=0)
    assert len(module.table) == 40 and cells(module).num_cells == 38
    used = [*module.train_cells, *module.val_cells]
    assert sorted(used) == [i for i in range(40) if i not in (2, 9)]
