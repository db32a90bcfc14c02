"""The official preprocessing of the first 60 cells of PBMC3k: same genes, values and read depths."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cellfm_torch.batch import InputSpec
from cellfm_torch.data.dataset import CellDataset
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.reader import read_cells
from cellfm_torch.data.table import MemoryTable
from cellfm_torch.paths import PBMC3K

RECORDED = Path(__file__).parents[1] / "parity" / "preprocess.npz"


def test_preprocess() -> None:
    vocab = GeneVocab.bundled(24078)
    cells = read_cells(PBMC3K, vocab, genes={"match": "exact", "duplicates": "unique"})
    spec = InputSpec(genes=vocab.symbols, read_depth=True)
    with np.load(RECORDED) as recorded:
        rows = cells.names.get_indexer(recorded["cells"])
        assert np.all(rows >= 0)
        batch = CellDataset(MemoryTable(cells.counts), spec, masking=None).batch(rows)
        np.testing.assert_array_equal(batch.offsets, recorded["offsets"])
        np.testing.assert_array_equal(batch.read_depth, np.stack([recorded["read_depth"]] * 2, axis=1))
        for b in range(60):
            own = slice(batch.offsets[b], batch.offsets[b + 1])
            # The order of genes in a cell carries no meaning.
            ours, theirs = np.argsort(batch.gene_ids[own].numpy()), np.argsort(recorded["gene_ids"][own])
            np.testing.assert_array_equal(batch.gene_ids[own][ours], recorded["gene_ids"][own][theirs])
            # Float32 logarithms of numbers up to 9: one unit in the last place is 5e-7.
            np.testing.assert_allclose(batch.values[own][ours], recorded["values"][own][theirs], rtol=0, atol=1e-6)
