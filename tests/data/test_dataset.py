"""Cells to batches: contents, determinism, independence of workers and of batch mates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cellfm_torch.batch import CellBatch, InputSpec
from cellfm_torch.data.dataset import CellDataset, CellLoader
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.reader import Cells, read_cells
from cellfm_torch.data.sampler import BatchPlan, TokenBudgetSampler


@pytest.fixture
def cells(cells_file: Path, vocab: GeneVocab) -> Cells:
    return read_cells(cells_file, vocab)


@pytest.fixture
def make(cells: Cells, vocab: GeneVocab) -> Callable[..., CellDataset]:
    """Make a dataset of the synthetic cells; `spec` goes into the InputSpec."""

    def make(*, spec: dict | None = None, **options: object) -> CellDataset:
        return CellDataset(cells, InputSpec(genes=vocab.symbols, **(spec or {})), **options)

    return make


def plan(*cells: int, epoch: int = 0, index: int = 0) -> BatchPlan:
    return BatchPlan(epoch, index, np.array(cells))


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
    dataset = make(rows=[30, 7, 11], mask_fraction=None)
    batch = dataset[plan(2, 0)]
    assert batch.cell_index.tolist() == [11, 30]
    assert (batch.target, batch.target_values, batch.read_depth, batch.labels) == (None,) * 4
    assert batch.gene_ids.dtype == batch.offsets.dtype == torch.int64 and batch.values.dtype == torch.float32
    assert not batch.hidden.any()
    for b, row in enumerate([11, 30]):
        own = slice(batch.offsets[b], batch.offsets[b + 1])
        counts = synthetic_counts[row]
        assert (batch.gene_ids[own] - 1).tolist() == np.flatnonzero(counts).tolist()
        expected = np.log1p(counts[counts > 0] / counts.sum() * 1e4)
        np.testing.assert_allclose(batch.values[own], expected, rtol=1e-6)


def test_first_id(make: Callable[..., CellDataset]) -> None:
    ids = [make(spec={"first_id": first}, mask_fraction=None)[plan(0)].gene_ids for first in (0, 1)]
    assert torch.equal(ids[0] + 1, ids[1])


def test_masking(make: Callable[..., CellDataset]) -> None:
    batch = make()[plan(*range(40))]
    target = torch.segment_reduce(batch.target.float(), "sum", offsets=batch.offsets)
    assert torch.equal(target.long(), (batch.lengths // 5).clamp(min=1))
    assert not (batch.hidden & ~batch.target).any() and (batch.values[batch.hidden] == 0).all()
    visible = ~batch.hidden
    assert torch.equal(batch.values[visible], batch.target_values[visible]) and (batch.target_values > 0).all()


def test_downsampling_and_read_depth(make: Callable[..., CellDataset], synthetic_counts: np.ndarray) -> None:
    """S and T are totals before genes are sampled; values are relative to S, target values to T."""
    batch = make(spec={"read_depth": True, "max_genes": 15}, downsample=True, hidden_share=0.01)[plan(*range(40))]
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
    batch = dataset[plan(*range(40))]
    length = min(most or 60, 60)
    assert batch.lengths.tolist() == dataset.lengths.tolist() == [length] * 40
    counts = synthetic_counts[batch.cell_of_gene, batch.gene_ids - 1]
    np.testing.assert_array_equal(counts == 0, batch.target_values == 0)
    expressed = (synthetic_counts > 0).sum(1)
    np.testing.assert_array_equal((counts > 0).reshape(40, -1).sum(1), np.minimum(expressed, length))
    assert batch.target.reshape(40, -1).sum(1).tolist() == [length // 5] * 40


def test_pure_function_of_seed_epoch_and_plan(make: Callable[..., CellDataset]) -> None:
    options = {"spec": {"max_genes": 20, "read_depth": True}, "downsample": True}
    one, other = make(**options)[plan(1, 2, 3)], make(**options)
    other[plan(9, 8, index=4)]
    assert_same(one, other[plan(1, 2, 3)])
    for changed in (
        other[plan(1, 2, 3, epoch=1)],
        other[plan(1, 2, 3, index=1)],
        make(seed=1, **options)[plan(1, 2, 3)],
    ):
        assert not torch.equal(one.target, changed.target)


@pytest.mark.parametrize("spec", [{"max_genes": 20}, {"max_genes": 30, "expressed_only": False}])
def test_fixed_cells_ignore_batch_mates_and_epoch(make: Callable[..., CellDataset], spec: dict) -> None:
    dataset = make(spec=spec, fixed=True)
    one = by_cell([dataset[plan(*range(40))]])
    rows = [[3, 1], [2, 0], [5], list(range(39, 5, -1)), [4]]
    assert by_cell([dataset[plan(*some, epoch=i, index=i)] for i, some in enumerate(rows)]) == one


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(make: Callable[..., CellDataset], num_workers: int) -> None:
    def loader(workers: int) -> CellLoader:
        dataset = make(spec={"max_genes": 20, "read_depth": True}, downsample=True)
        return CellLoader(dataset, sampler=TokenBudgetSampler(dataset.lengths, token_budget=100), num_workers=workers)

    ours, theirs = list(loader(0)), list(loader(num_workers))
    assert len(ours) == len(theirs) == len(loader(0)) > 5
    for a, b in zip(ours, theirs, strict=True):
        assert_same(a, b)


def test_iterating_leaves_global_random_state(make: Callable[..., CellDataset]) -> None:
    dataset = make()
    loader = CellLoader(dataset, sampler=TokenBudgetSampler(dataset.lengths, token_budget=200))
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(loader)
    assert torch.equal(torch_state, torch.get_rng_state())
    np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])


def test_labels(make: Callable[..., CellDataset]) -> None:
    assert make(labels=np.arange(40) * 2, rows=[5, 6])[plan(1, 0)].labels.tolist() == [12, 10]


def test_unknown_transform(make: Callable[..., CellDataset]) -> None:
    with pytest.raises(ValueError, match="value_transform 'sqrt'"):
        make(spec={"value_transform": "sqrt"})
