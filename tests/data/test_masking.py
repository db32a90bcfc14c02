"""Pretraining as scFoundation published it: targets among expressed and other genes, false values, lost counts.

Shapes: C = 40 cells, G = 3,000 genes.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cellfm_torch import ScFoundation, ScFoundationConfig
from cellfm_torch.batch import CellBatch, InputSpec, Masking
from cellfm_torch.data.dataset import CellDataset
from cellfm_torch.data.masking import num_zeros
from cellfm_torch.data.table import MemoryTable
from cellfm_torch.model.scfoundation.config import PRETRAINING

CELLS, GENES = 40, 3000
CONFIG = ScFoundationConfig.preset("scfoundation-tiny", num_genes=GENES)


@pytest.fixture(scope="module")
def counts() -> sp.csr_matrix:
    """Counts (C, G) of 100 to 1,000 expressed genes a cell; the last five cells have fewer than 1,000 counts."""
    rng = np.random.default_rng(3)
    dense = np.zeros((CELLS, GENES), dtype=np.int32)
    for cell, number in enumerate(np.linspace(1000, 100, CELLS).astype(int)):
        genes = rng.choice(GENES, number, replace=False)
        dense[cell, genes] = 1 + rng.poisson(rng.gamma(0.5, 8.0, number)) * (cell < CELLS - 5)
    return sp.csr_matrix(dense)


def dataset(counts: sp.csr_matrix, *, downsample: bool = False, masking: Masking = PRETRAINING, seed: int = 0):
    spec = ScFoundation(CONFIG, genes=[f"G{i}" for i in range(GENES)]).input_spec
    return CellDataset(MemoryTable(counts), spec, masking=masking, downsample=downsample, seed=seed)


def per_cell(batch: CellBatch, x: torch.Tensor) -> np.ndarray:
    return torch.segment_reduce(x.double(), "sum", offsets=batch.offsets).long().numpy()


def test_the_models_own_recipe() -> None:
    """As published: 0.3 of the expressed and 0.03 of the other genes, of which 80 % are hidden and 10 % false."""
    shares = (PRETRAINING.fraction, PRETRAINING.zero_fraction, PRETRAINING.hidden_share, PRETRAINING.random_share)
    assert shares == (0.3, 0.03, 0.8, 0.1)
    spec = ScFoundation(CONFIG, genes=[f"G{i}" for i in range(GENES)]).input_spec
    assert spec.masking == PRETRAINING and spec.read_depth and spec.max_genes is None


def test_shares(counts: sp.csr_matrix) -> None:
    batch = dataset(counts).batch(np.arange(CELLS))
    expressed = batch.target_values > 0
    number = np.diff(counts.indptr)
    np.testing.assert_array_equal(per_cell(batch, expressed), number)
    zeros = np.floor(0.03 * (GENES - number) + 1e-9).astype(int)
    np.testing.assert_array_equal(batch.lengths.numpy() - number, zeros)
    np.testing.assert_array_equal(num_zeros(number, PRETRAINING, num_genes=GENES), zeros)
    false = batch.target & ~batch.hidden & (batch.values != batch.target_values)
    for of, targets in ((expressed, np.floor(0.3 * number + 1e-9)), (~expressed, zeros)):
        np.testing.assert_array_equal(per_cell(batch, batch.target & of), targets)
        np.testing.assert_array_equal(per_cell(batch, batch.hidden & of), np.floor(0.8 * targets + 1e-9))
        got, given = per_cell(batch, false & of), np.floor(0.1 * targets + 1e-9)
        # A false value may happen to be the true one, the more often the fewer values there are.
        assert (got <= given).all() and got.sum() > 0.5 * given.sum()
    np.testing.assert_array_equal(per_cell(batch, false & ~expressed), np.floor(0.1 * zeros + 1e-9))  # never zero
    assert not (batch.hidden & ~batch.target).any() and (batch.values[batch.hidden] == 0).all()
    rest = ~batch.target
    assert torch.equal(batch.values[rest], batch.target_values[rest])
    kept = batch.target & ~batch.hidden & ~false
    assert (kept & expressed).any() and (kept & ~expressed).any()


def test_targets_are_true_and_false_values_are_of_the_cell(counts: sp.csr_matrix) -> None:
    batch = dataset(counts).batch(np.array([4, 11]))
    for b, row in enumerate([4, 11]):
        own = slice(int(batch.offsets[b]), int(batch.offsets[b + 1]))
        cell = np.log1p(counts[row].toarray()[0] / counts[row].sum() * 1e4)
        ids = batch.gene_ids[own].numpy()
        assert len(set(ids.tolist())) == len(ids)
        np.testing.assert_allclose(batch.target_values[own], cell[ids], rtol=1e-6)  # float32
        known = np.unique(cell[cell > 0].astype(np.float32))
        values = batch.values[own].numpy()
        assert np.isclose(values[values > 0][:, None], known, rtol=1e-6).any(1).all()


def test_which_are_chosen_is_even_and_depends_on_the_cell_alone(counts: sp.csr_matrix) -> None:
    data = dataset(counts)
    alone, together = data.batch(np.array([7])), data.batch(np.array([2, 7]))
    mates = slice(int(together.offsets[1]), None)
    for name in ("gene_ids", "values", "hidden", "target"):
        assert torch.equal(getattr(alone, name), getattr(together, name)[mates]), name
    again, later = data.batch(np.array([7]), 0), data.batch(np.array([7]), 1)
    assert torch.equal(alone.gene_ids, again.gene_ids) and not torch.equal(alone.gene_ids, later.gene_ids)
    # 600 passes over one cell: each gene is asked for as often as its share says.
    asked = np.zeros((2, GENES))
    hidden = np.zeros(GENES)
    for seed in range(600):
        batch = dataset(counts, seed=seed).batch(np.array([7]))
        ids = batch.gene_ids.numpy()
        np.add.at(asked[0], ids[batch.target.numpy()], 1)
        np.add.at(hidden, ids[batch.hidden.numpy()], 1)
    expressed = counts[7].toarray()[0] > 0
    for of, share in ((expressed, 0.3), (~expressed, 0.03)):
        rate = asked[0][of] / 600
        spread = np.sqrt(share * (1 - share) / 600)
        # 3,000 binomials: beyond 5 standard deviations lies one in a million.
        assert abs(rate.mean() - share) < 0.002 and np.abs(rate - share).max() < 5.5 * spread + 1 / 600
        assert abs(hidden[of].sum() / asked[0][of].sum() - 0.8) < 0.01


def test_downsampling(counts: sp.csr_matrix) -> None:
    """Binomial(count, p), p ~ Beta(2, 2), in half of the cells of 1,000 counts or more; genes may vanish from S."""
    totals = np.asarray(counts.sum(1)).ravel()
    shares = []
    for seed in range(60):
        batch = dataset(counts, downsample=True, seed=seed).batch(np.arange(CELLS))
        s, t = batch.read_depth.numpy().T
        np.testing.assert_array_equal(t, totals)
        assert (s <= t).all() and (s[totals < 1000] == t[totals < 1000]).all()
        shares.append((s / t)[totals >= 1000])
    share = np.concatenate(shares)
    lowered = share[share < 1]
    # 2,000 draws: five standard errors of a share of 1/2, and of the mean and variance of Beta(2, 2).
    assert abs(len(lowered) / len(share) - 0.5) < 5 * 0.5 / np.sqrt(len(share))
    assert abs(lowered.mean() - 0.5) < 5 * 0.2236 / np.sqrt(len(lowered)) and abs(lowered.var() - 0.05) < 0.01


def test_vanished_genes_keep_their_true_value(counts: sp.csr_matrix) -> None:
    """Where downsampling took a gene from the input, what is asked for is still the whole cell."""
    seen = 0
    for seed in range(10):
        batch = dataset(counts, downsample=True, seed=seed).batch(np.arange(20))
        for b in range(20):
            own = slice(int(batch.offsets[b]), int(batch.offsets[b + 1]))
            ids, row = batch.gene_ids[own].numpy(), counts[b].toarray()[0]
            np.testing.assert_allclose(batch.target_values[own], np.log1p(row[ids] / row.sum() * 1e4), rtol=1e-6)
            s = float(batch.read_depth[b, 0])
            plain = ~batch.target[own] & (batch.values[own] > 0)
            back = torch.expm1(batch.values[own][plain].double()) * s / 1e4
            np.testing.assert_allclose(back, back.round(), rtol=1e-4)  # counts of the thinned cell, relative to S
            seen += int(((batch.values[own] == 0) & ~batch.hidden[own] & (batch.target_values[own] > 0)).sum())
    assert seen > 0


def test_other_models_are_as_they_were(counts: sp.csr_matrix) -> None:
    spec = InputSpec(genes=tuple(f"G{i}" for i in range(GENES)))
    batch = CellDataset(MemoryTable(counts), spec).batch(np.arange(CELLS))
    assert (batch.target_values > 0).all() and torch.equal(
        batch.values[~batch.hidden], batch.target_values[~batch.hidden]
    )
    np.testing.assert_array_equal(per_cell(batch, batch.target), np.floor(0.2 * np.diff(counts.indptr) + 1e-9))
