"""Cells in memory with classes: any rows as batches, none left out, the same for every process count."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest

from cellfm_torch import InputSpec, UserError
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.labelled import CellSet, LabelledCells


@pytest.fixture
def spec(vocab: GeneVocab) -> InputSpec:
    return InputSpec(genes=vocab.symbols, max_genes=10)


@pytest.fixture
def cells(synthetic_cells: Callable[..., anndata.AnnData], spec: InputSpec) -> CellSet:
    """Forty cells, of which the fourth is empty."""
    adata = synthetic_cells()
    counts = adata.X.toarray()
    counts[3] = 0
    adata.X = counts
    adata.obs["some"] = [None, "", " ", *["x"] * 37]
    return CellSet.read(adata, spec, token_budget=200)


def test_no_cell_is_left_out(cells: CellSet, synthetic_counts: np.ndarray) -> None:
    assert len(cells) == len(cells.obs) == 40 and cells.lengths[3] == 0
    expected = synthetic_counts.copy()
    expected[3] = 0
    np.testing.assert_array_equal(cells.counts.toarray(), expected)


def test_all_genes_in_order_or_a_sample_shuffled(cells: CellSet) -> None:
    rows = np.array([0, 5, 6, 30, 39])
    batches = list(cells.loader(rows, codes=np.arange(40) - 1))
    assert np.concatenate([b.cell_index for b in batches]).tolist() == rows.tolist()
    assert np.concatenate([b.labels for b in batches]).tolist() == [-1, 4, 5, 29, 38]
    assert np.concatenate([b.lengths for b in batches]).tolist() == cells.lengths[rows].tolist()  # more than 10
    assert all(not b.hidden.any() and b.target is None for b in batches)
    everyone = np.concatenate([b.cell_index for b in cells.loader()])
    assert everyone.tolist() == [row for row in range(40) if row != 3]

    loader = cells.loader(np.arange(4, 40), shuffle=True)
    orders = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert all((b.lengths <= 10).all() for b in batches)
        orders.append(np.concatenate([b.cell_index for b in batches]))
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(4, 40)) and (orders[0] != orders[1]).any()


def test_processes_share_the_cells(cells: CellSet) -> None:
    rows = np.arange(4, 40)
    parts = [list(cells.loader(rows, shuffle=True, rank=rank, world_size=2)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1])
    assert sorted(int(i) for part in parts for b in part for i in b.cell_index) == rows.tolist()


def test_module(cells: CellSet) -> None:
    data = LabelledCells(cells, np.zeros(40, dtype=int), train=np.arange(4, 20), held_out=np.arange(20, 40))
    assert sum(b.num_cells for b in data.train_dataloader()) == 16
    assert sum(b.num_cells for b in data.val_dataloader()) == 20
    assert LabelledCells(cells, np.zeros(40, dtype=int), train=np.arange(4, 20)).val_dataloader() == []


def test_genes_of_another_set(cells: CellSet, spec: InputSpec, synthetic_counts: np.ndarray) -> None:
    other = anndata.AnnData(synthetic_counts[:4, :7].astype(np.float32) * (np.arange(7) != 2))
    other.var_names = list(spec.genes or ())[:7]
    shared = cells.with_genes_of(CellSet.read(other, spec))
    kept = [column for column in range(7) if column != 2]
    np.testing.assert_array_equal(shared.counts.toarray()[:, kept], cells.counts.toarray()[:, kept])
    assert shared.counts.sum() == cells.counts[:, kept].sum() and len(shared) == 40 and shared.obs is cells.obs
    assert shared.lengths.max() <= 6 < cells.lengths.max()


def test_columns(cells: CellSet, spec: InputSpec, tmp_path: Path) -> None:
    assert cells.column("some", option="label").isna().tolist() == [True] * 3 + [False] * 37
    assert cells.column("depth", option="label").tolist() == [str(i) for i in range(40)]
    with pytest.raises(UserError, match="label=cell_typ: no such column in obs .*did you mean 'cell_type'"):
        cells.column("cell_typ", option="label")
    with pytest.raises(UserError, match="the model does not know which genes"):
        CellSet.read(tmp_path / "x.h5ad", dataclasses.replace(spec, genes=None))
