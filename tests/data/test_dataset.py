"""Cells to batches: contents, determinism, independence of workers and of batch mates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cellfm_torch.batch import CellBatch, InputSpec, Masking
from cellfm_torch.data.dataset import CellDataset
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.reader import read_cells
from cellfm_torch.data.table import MemoryTable


@pytest.fixture
def table(cells_file: Path, vocab: GeneVocab) -> MemoryTable:
    return MemoryTable(read_cells(cells_file, vocab).counts)


@pytest.fixture
def make(table: MemoryTable, vocab: GeneVocab) -> Callable[..., CellDataset]:
    """Make a dataset of the synthetic cells; `spec` goes into the InputSpec."""

    def make(*, spec: dict | None = None, **options: object) -> CellDataset:
        return CellDataset(table, InputSpec(genes=vocab.symbols, **(spec or {})), **options)

    return make


def assert_same(a: CellBatch, b: CellBatch) -> None:
    for name, x in vars(a).items():
        if isinstance(x, torch.Tensor):
            assert torch.equal(x, getattr(b, name)), name


def by_cell(batches: list[CellBatch]) -> dict[int, tuple]:
    """Contents of each cell, whichever batch it came in."""
    return {
        int(batch.cell_index[b]): tuple(
            x[batch.offsets[b] : batch.offsets[b + 1]].tolist()
            for x in (batch.gene_ids, batch.values, batch.hidden, batch.target)
        )
        for batch in batches
        for b in range(batch.num_cells)
    }


def test_contents(make: Callable[..., CellDataset], synthetic_counts: np.ndarray) -> None:
    dataset = make(rows=np.array([7, 11, 30]), masking=None)
    batch = dataset.batch(np.array([2, 1]))
    assert batch.cell_index.tolist() == [30, 11]
    assert (batch.target, batch.target_values, batch.read_depth, batch.labels) == (None,) * 4
    assert batch.gene_ids.dtype == batch.offsets.dtype == torch.int64 and batch.values.dtype == torch.float32
    assert not batch.hidden.any()
    for b, row in enumerate([30, 11]):
        own = slice(batch.offsets[b], batch.offsets[b + 1])
        counts = synthetic_counts[row]
        assert (batch.gene_ids[own] - 1).tolist() == np.flatnonzero(counts).tolist()
        expected = np.log1p(counts[counts > 0] / counts.sum() * 1e4)
        np.testing.assert_allclose(batch.values[own], expected, rtol=1e-6)


def test_first_id(make: Callable[..., CellDataset]) -> None:
    ids = [make(spec={"first_id": first}, masking=None).batch(np.array([0])).gene_ids for first in (0, 1)]
    assert torch.equal(ids[0] + 1, ids[1])


def test_masking(make: Callable[..., CellDataset]) -> None:
    batch = make().batch(np.arange(40))
    target = torch.segment_reduce(batch.target.float(), "sum", offsets=batch.offsets)
    assert torch.equal(target.long(), (batch.lengths // 5).clamp(min=1))
    assert not (batch.hidden & ~batch.target).any() and (batch.values[batch.hidden] == 0).all()
    visible = ~batch.hidden
    assert torch.equal(batch.values[visible], batch.target_values[visible]) and (batch.target_values > 0).all()


def test_downsampling_and_read_depth(make: Callable[..., CellDataset], synthetic_counts: np.ndarray) -> None:
    """S and T are totals before genes are sampled; values are relative to S, target values to T."""
    batch = make(spec={"read_depth": True, "max_genes": 15}, downsample=True, masking=Masking(hidden_share=0.01)).batch(
        np.arange(40)
    )
    input_depth, target_depth = batch.read_depth.T
    np.testing.assert_array_equal(target_depth, synthetic_counts.sum(1))
    lowered = input_depth < target_depth
    assert 5 < lowered.sum() < 35 and (input_depth <= target_depth).all()
    rows, genes = batch.cell_of_gene, batch.gene_ids - 1
    counts = torch.from_numpy(synthetic_counts)[rows, genes]
    torch.testing.assert_close(batch.target_values, torch.log1p(counts / target_depth[rows] * 1e4))
    seen = torch.expm1(batch.values.double()) / 1e4 * input_depth[rows]
    shown = ~batch.hidden
    np.testing.assert_allclose(seen[shown], seen[shown].round(), atol=1e-3)
    assert (seen[shown].round() >= 1).all() and (seen[shown].round() <= counts[shown]).all()
    assert torch.equal(seen[shown & ~lowered[rows]].round().long(), counts[shown & ~lowered[rows]])


@pytest.mark.parametrize("most", [15, 45, 100, None])
def test_unexpressed_genes_fill_up(
    make: Callable[..., CellDataset], synthetic_counts: np.ndarray, most: int | None
) -> None:
    dataset = make(spec={"expressed_only": False, "max_genes": most})
    batch = dataset.batch(np.arange(40))
    length = min(most or 60, 60)
    assert batch.lengths.tolist() == dataset.lengths.tolist() == [length] * 40
    counts = synthetic_counts[batch.cell_of_gene, batch.gene_ids - 1]
    np.testing.assert_array_equal(counts == 0, batch.target_values == 0)
    expressed = (synthetic_counts > 0).sum(1)
    np.testing.assert_array_equal((counts > 0).reshape(40, -1).sum(1), np.minimum(expressed, length))
    assert batch.target.reshape(40, -1).sum(1).tolist() == [length // 5] * 40


def test_pure_function_of_seed_pass_and_row(make: Callable[..., CellDataset]) -> None:
    """Batch mates and their number do not matter; a cell used twice in a batch is drawn twice."""
    options = {"spec": {"max_genes": 20, "read_depth": True}, "downsample": True}
    dataset = make(**options)
    one = by_cell([dataset.batch(np.arange(40), 3)])
    apart = [[3, 1], [2, 0], [5], list(range(39, 5, -1)), [4]]
    assert by_cell([make(**options).batch(np.array(some), 3) for some in apart]) == one
    again = dataset.batch(np.array([7, 7, 7]), np.array([3, 4, 3]))
    first, second, third = again.target.reshape(3, -1)
    assert torch.equal(first, third) and not torch.equal(first, second)
    for changed in (dataset.batch(np.arange(40), 4), make(seed=1, **options).batch(np.arange(40), 3)):
        other = by_cell([changed])
        assert sum(other[row] != one[row] for row in range(40)) > 35


@pytest.mark.parametrize("spec", [{"max_genes": 20}, {"max_genes": 30, "expressed_only": False}])
def test_fixed_cells_ignore_passes(make: Callable[..., CellDataset], spec: dict) -> None:
    dataset = make(spec=spec, fixed=True)
    assert_same(dataset.batch(np.arange(40), 0), dataset.batch(np.arange(40), 5))


def test_rows_number_the_table(make: Callable[..., CellDataset]) -> None:
    """A cell looks the same in a data set of all cells and in one of some."""
    some = make(rows=np.array([5, 6, 9]))
    assert_same(some.batch(np.array([2, 0])), make().batch(np.array([9, 5])))
    assert some.lengths.tolist() == make().lengths[[5, 6, 9]].tolist()


def test_labels(make: Callable[..., CellDataset]) -> None:
    assert make(labels=np.arange(40) * 2, rows=np.array([5, 6])).batch(np.array([1, 0])).labels.tolist() == [12, 10]


def test_unknown_transform(make: Callable[..., CellDataset]) -> None:
    with pytest.raises(ValueError, match="value_transform 'sqrt'"):
        make(spec={"value_transform": "sqrt"})
