"""Files that stay on disk give the same batches, bit for bit, as files in memory."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from cellfm_torch import ScFoundation, ScFoundationConfig
from cellfm_torch.batch import CellBatch, InputSpec
from cellfm_torch.data import file_parts
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.module import CellDataModule
from cellfm_torch.data.sources import h5_runs
from cellfm_torch.errors import UserError

Make = Callable[..., CellDataModule]


def rewritten(path: Path, **storage: Any) -> Path:
    """Store the arrays of X anew, 50 entries to a chunk unless they say otherwise."""
    with h5py.File(path, "r+") as file:
        for name in ("data", "indices"):
            values = file["X"][name][:]
            del file["X"][name]
            file["X"].create_dataset(name, data=values, **({"chunks": (50,)} | storage))
    return path


@pytest.fixture
def make(vocab: GeneVocab) -> Make:
    def make(path: Any, **options: Any) -> CellDataModule:
        defaults = {"min_genes": 0, "token_budget": 200, "block_size": 1, "fetch_cells": 12}
        spec = InputSpec(genes=vocab.symbols, max_genes=30, read_depth=True)
        return CellDataModule(path, **(defaults | options), input_spec=spec)

    return make


def batches(module: CellDataModule) -> Iterator[CellBatch]:
    loader = module.train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        yield from loader
    yield from module.val_dataloader()
    yield from module.predict_dataloader()


def assert_same(streamed: CellDataModule, held: CellDataModule) -> None:
    number = 0
    for ours, theirs in zip(batches(streamed), batches(held), strict=True):
        number += 1
        for field in dataclasses.fields(CellBatch):
            a, b = getattr(ours, field.name), getattr(theirs, field.name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name
    assert number > 20


STORAGE: dict[str, Any] = {
    "gzip": {"compression": "gzip"},
    "shuffle": {"compression": "gzip", "shuffle": True},
    "chunks": {},
    "one piece": {"chunks": None},
    "through the library": {"compression": "lzf"},
    "checksums": {"compression": "gzip", "fletcher32": True},
}


@pytest.mark.parametrize("most_counts", [np.inf, 1e5, 3e4])
def test_models_that_take_deep_cells_as_they_are(
    synthetic_counts: np.ndarray,
    synthetic_cells: Callable[..., anndata.AnnData],
    write: Callable[..., Path],
    vocab: GeneVocab,
    most_counts: float,
) -> None:
    """scFoundation's batches: its masks and downsampling, and cells of more than 1e5 counts as they are."""
    counts = synthetic_counts.copy()
    counts[::5] *= 3000
    path = write(synthetic_cells(sp.csr_matrix(counts.astype(np.float32))), "deep.h5ad")
    network = ScFoundation(ScFoundationConfig.preset("scfoundation-tiny", num_genes=len(vocab)), genes=vocab.symbols)
    spec = dataclasses.replace(network.input_spec, most_counts=most_counts)
    options = {"min_genes": 0, "token_budget": 200, "block_size": 1, "fetch_cells": 12, "input_spec": spec}
    streamed, held = (CellDataModule(path, stream=stream, **options) for stream in (True, False))
    assert_same(streamed, held)
    totals = torch.cat([batch.read_depth[:, 0] for batch in streamed.predict_dataloader()])
    # Each of 60 counts is rounded after the scaling.
    assert totals.max() > 2e5 if most_counts == np.inf else most_counts / 2 < totals.max() < most_counts + 30


@pytest.mark.parametrize("storage", STORAGE)
def test_storage(cells_file: Path, make: Make, storage: str) -> None:
    path = rewritten(cells_file, **STORAGE[storage])
    with h5py.File(path) as file:
        direct = h5_runs.StoredArray(file["X"]["data"])._chunk > 0
    assert direct == (storage not in ("through the library", "checksums"))
    assert_same(make(path, stream=True, label="cell_type"), make(path, stream=False, label="cell_type"))


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.uint16])
def test_awkward_matrix(
    synthetic_counts: np.ndarray, synthetic_cells: Any, write: Any, make: Make, dtype: type, vocab: GeneVocab
) -> None:
    """Unsorted genes, stored zeros, repeated entries, cells above 1e5 counts, dropped cells, unknown genes."""
    counts = synthetic_counts.astype(dtype)
    counts[3, :5] = 60_000
    counts[4, 1:] = 0
    matrix = sp.csr_matrix(counts)
    rng = np.random.default_rng(0)
    rows = []
    for row in range(40):
        own = matrix[row].tocoo()
        order = rng.permutation(own.nnz)
        genes, values = own.col[order], own.data[order]
        half = (values // 2).astype(dtype)
        rows.append((np.r_[genes, genes, [7]], np.r_[half, values - half, [0]]))
    indptr = np.cumsum([0, *(len(genes) for genes, _ in rows)])
    indices, data = (np.concatenate([row[i] for row in rows]) for i in (0, 1))
    adata = synthetic_cells(matrix, genes=[*vocab.symbols[:50:-1], "NOGENE", *vocab.symbols[1:51]])
    path = write(adata)
    with h5py.File(path, "r+") as file:
        for name, values in {"data": data.astype(dtype), "indices": indices.astype(np.int64), "indptr": indptr}.items():
            del file["X"][name]
            file["X"].create_dataset(name, data=values, chunks=(37,), compression="gzip")
    held, streamed = (make(path, stream=stream, min_genes=20) for stream in (False, True))
    assert_same(streamed, held)
    assert 30 < len(held.table) < 40
    pd.testing.assert_frame_equal(streamed.obs, held.obs)
    assert streamed.collection.columns == held.collection.columns
    np.testing.assert_array_equal(streamed.gene_means, held.gene_means)


def test_files_and_threads(synthetic_cells: Any, write: Any, make: Make) -> None:
    adata = synthetic_cells()
    paths = [write(adata, "a.h5ad"), write(adata[:7].copy(), "b.h5ad")]
    assert_same(make(paths, stream=True, num_workers=2), make(paths, stream=False))
    obs = make(paths, stream=True).obs
    assert obs["source_file"].tolist() == ["a.h5ad"] * 40 + ["b.h5ad"] * 7


def test_blocks(cells_file: Path, make: Make) -> None:
    """Neighbours stay together up to a fetch; every cell comes once."""
    module = make(cells_file, stream=True, block_size=4)
    assert module.table.blocks.tolist() == list(range(0, 41, 4))
    seen = torch.cat([batch.cell_index for batch in module.train_dataloader()])
    np.testing.assert_array_equal(np.sort(seen.numpy()), module.train_cells)


def test_chosen_by_size(cells_file: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make(cells_file).collection.parts[0], file_parts.FilePart)
    with h5py.File(cells_file) as file:
        bytes_held = 16 * file["X"]["data"].shape[0]
    monkeypatch.setattr(file_parts, "total_memory", lambda: 2 * bytes_held)
    monkeypatch.setattr(file_parts, "MOST_RATIO", 1000)
    assert isinstance(make(cells_file).collection.parts[0], file_parts.FilePart)
    monkeypatch.setattr(file_parts, "total_memory", lambda: 2 * bytes_held - 1)
    assert isinstance(make(cells_file).collection.parts[0], file_parts.StreamedPart)


def test_what_cannot_be_streamed(synthetic_cells: Any, write: Any, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = synthetic_cells()
    paths = [write(adata, "rows.h5ad"), write(synthetic_cells(sp.csc_matrix(adata.X)), "columns.h5ad")]
    with pytest.raises(UserError, match=r"columns\.h5ad: cannot be streamed.*cellfm prepare"):
        make(paths, stream=True).setup()
    monkeypatch.setattr(file_parts, "total_memory", lambda: 10)
    chosen = make(paths)  # read into memory, as there is no other way
    assert isinstance(chosen.collection.parts[0], file_parts.StreamedPart)
    assert_same(chosen, make(paths, stream=False))
    with pytest.raises(UserError, match="not held in memory: read them with data.stream=false"):
        _ = chosen.cells


def test_no_cell_left(cells_file: Path, make: Make) -> None:
    with pytest.raises(UserError, match=r"cells\.h5ad: no cell is left"):
        make(cells_file, stream=True, min_genes=61).setup()
    with pytest.raises(UserError, match=r"data\.stream=maybe"):
        make(cells_file, stream="maybe")


def test_changed_file(cells_file: Path, make: Make, synthetic_cells: Any, write: Any) -> None:
    module = make(cells_file, stream=True)
    loader = module.train_dataloader()
    next(iter(loader))
    other = anndata.AnnData(sp.csr_matrix(synthetic_cells().X)[:, ::-1])
    other.obs, other.var = synthetic_cells().obs, synthetic_cells().var
    write(other)
    with pytest.raises(UserError, match=r"cells\.h5ad: has changed since it was opened"):
        list(loader)


@pytest.mark.parametrize("place", [3, -3])
def test_damaged_while_open(cells_file: Path, make: Make, place: int) -> None:
    path = rewritten(cells_file, compression="gzip")
    module = make(path, stream=True)
    loader = module.train_dataloader()
    next(iter(loader))
    found: list[Any] = []
    with h5py.File(path) as file:
        file["X"]["indices"].id.chunk_iter(found.append)
    before = path.stat()
    with path.open("r+b") as raw:
        raw.seek(found[place].byte_offset + 4)
        raw.write(b"\xff" * 8)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match=r"cells\.h5ad: (is damaged|has changed)"):
        list(loader)


def test_resumed_with_other_blocks(cells_file: Path, make: Make) -> None:
    """The batches of an epoch would be others, even where they are as many."""
    loader = make(cells_file, stream=False).train_dataloader()
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    make(cells_file, stream=True).train_dataloader().load_state_dict(state)
    with pytest.raises(UserError, match=r"blocks.*data\.stream"):
        make(cells_file, stream=True, block_size=4, fetch_cells=12).train_dataloader().load_state_dict(state)
