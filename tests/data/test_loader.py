"""The loader: the same batches whatever the number of threads, early ends, global random state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cellfm_torch.batch import CellBatch, InputSpec
from cellfm_torch.data import loader as loading
from cellfm_torch.data.dataset import CellDataset
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.loader import CellLoader
from cellfm_torch.data.order import BlockOrder
from cellfm_torch.data.reader import read_cells
from cellfm_torch.data.sampler import TokenBudgetSampler
from cellfm_torch.data.table import MemoryTable


@pytest.fixture
def dataset(cells_file: Path, vocab: GeneVocab) -> CellDataset:
    spec = InputSpec(genes=vocab.symbols, max_genes=20, read_depth=True)
    table = MemoryTable(read_cells(cells_file, vocab).counts, block_size=3)
    return CellDataset(table, spec, downsample=True, labels=np.arange(40))


def make(dataset: CellDataset, workers: int = 0, budget: int = 100) -> CellLoader:
    order = BlockOrder(dataset.blocks, fetch_blocks=4)
    sampler = TokenBudgetSampler(dataset.lengths, token_budget=budget, order=order)
    return CellLoader(dataset, sampler=sampler, num_workers=workers)


def contents(batch: CellBatch) -> dict:
    return {name: x.tolist() for name, x in vars(batch).items() if isinstance(x, torch.Tensor)}


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("piece", [1, 90, 10**9])
def test_threads_and_pieces_change_nothing(
    dataset: CellDataset, num_workers: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = [contents(batch) for batch in make(dataset)]
    monkeypatch.setattr(loading, "PIECE_TOKENS", piece)
    theirs = [contents(batch) for batch in make(dataset, num_workers)]
    assert len(ours) == len(make(dataset)) > 5
    assert ours == theirs


def test_batches_are_those_made_one_by_one(dataset: CellDataset) -> None:
    """What is cut from a large piece is what the same cells give by themselves."""
    seen = []
    for batch in make(dataset):
        rows = batch.cell_index.numpy()
        assert contents(batch) == contents(dataset.batch(rows))
        assert batch.num_genes <= 100
        seen += rows.tolist()
    assert sorted(seen) == list(range(40))


def test_stopping_early(dataset: CellDataset) -> None:
    batches = iter(make(dataset, 2))
    first = next(batches)
    batches.close()
    assert contents(next(iter(make(dataset, 2)))) == contents(first)


def test_a_failing_read_reaches_the_consumer(dataset: CellDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(rows: np.ndarray) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(dataset.table, "read", fail)
    for workers in (0, 2):
        with pytest.raises(OSError, match="disk on fire"):
            next(iter(make(dataset, workers)))


def test_iterating_leaves_global_random_state(dataset: CellDataset) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(make(dataset, 1))
    assert torch.equal(torch_state, torch.get_rng_state())
    np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_begins_anywhere_in_a_step(dataset: CellDataset, num_workers: int) -> None:
    """Three batches to a step, from three places of the epoch; a run may go on in the middle of one."""

    def loader(start: int = 0) -> CellLoader:
        order = BlockOrder(dataset.blocks, fetch_blocks=4)
        sampler = TokenBudgetSampler(dataset.lengths, token_budget=100, order=order, accumulate=3)
        sampler.start = start
        return CellLoader(dataset, sampler=sampler, num_workers=num_workers)

    everything = [contents(batch) for batch in loader()]
    assert len(everything) == len(loader()) and len(everything) % 3 == 0 and len(everything) > 5
    for start in range(len(everything)):
        assert [contents(batch) for batch in loader(start)] == everything[start:]
    half = iter(loader())
    next(half)
    half.close()  # type: ignore[attr-defined]
