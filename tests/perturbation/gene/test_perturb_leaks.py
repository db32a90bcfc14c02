"""Nothing of a test perturbation reaches what is learned.

Which genes are read out is chosen over the cells of all conditions, once for all splits, so that these are scored on
the same genes. These tests read out all genes: what is left is what training itself sees.
"""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from small_screens import FEW

from cellfm_torch import CellFM, GenePerturbation
from cellfm_torch.perturbation.gene.baselines import fit_baselines
from cellfm_torch.perturbation.gene.cells import PerturbedCells
from cellfm_torch.perturbation.gene.splits import Split, make_split


@pytest.fixture(scope="module")
def split(screen_cells: anndata.AnnData, network: CellFM) -> Split:
    conditions = PerturbedCells.read(screen_cells, network.input_spec).conditions
    doubles = [c for c in conditions if len(c) > 1]
    singles = [c for c in conditions if len(c) == 1]
    held_out = [doubles[0], *[c for c in singles if c[0] not in {gene for double in doubles for gene in double}][:1]]
    val = [c for c in singles if c not in held_out][:1]
    return make_split("given", 0, [c for c in conditions if c not in [*held_out, *val]], val, held_out)


def poisoned(adata: anndata.AnnData, rows: np.ndarray) -> anndata.AnnData:
    """Return the cells with some of them moved far: genes shuffled, then counts multiplied, all of them non-zero."""
    out, rng = adata.copy(), np.random.default_rng(5)
    counts = out.X.toarray()
    counts[rows] = rng.permuted(counts[rows], axis=1) * 7 + 1
    out.X = sp.csr_matrix(counts)
    return out


def rows_of(screen: GenePerturbation, conditions: Any) -> np.ndarray:
    cells = screen.screen
    assert cells is not None
    return np.flatnonzero(np.isin(cells.codes, [cells.conditions.index(c) for c in conditions]))


def learned(adata: anndata.AnnData, network: CellFM, split: Split, method: str) -> tuple[GenePerturbation, Any]:
    options = {"top_genes": 10_000, "control_cells": 12, "coexpression": True}
    screen = GenePerturbation(adata, network, **options).train(split, method=method, lr=0.01, **FEW | {"max_epochs": 6})
    assert len(screen.readout) == 120
    assert screen.saved is not None
    return screen, {name: x.clone() for name, x in screen.saved.task.state_dict().items()}


@pytest.mark.parametrize("method", ["frozen", "lora"])
def test_test_perturbations_reach_neither_weights_nor_predictions(
    screen_cells: anndata.AnnData, network: CellFM, split: Split, method: str
) -> None:
    screen, weights = learned(screen_cells, network, split, method)
    bad = poisoned(screen_cells, rows_of(screen, split.test))
    other, other_weights = learned(bad, network, split, method)
    # Equal but for rounding: the same sums may be taken in another order where memory happens to lie otherwise. The
    # same poison in a training condition moves weights by more than a thousand times as much, see below.
    assert weights.keys() == other_weights.keys()
    np.testing.assert_allclose(screen.history, other.history, rtol=1e-5)
    for name, x in weights.items():
        torch.testing.assert_close(x, other_weights[name], rtol=1e-5, atol=1e-6, msg=name)
    conditions = (*split.test, *split.val, *split.train)
    np.testing.assert_allclose(screen.changes(conditions), other.changes(conditions), rtol=1e-5, atol=1e-6)
    # The poison is there: what was measured of the test conditions is another.
    assert screen.screen is not None and other.screen is not None
    before, after = (x.screen.effects(x.readout, split.test).delta for x in (screen, other))
    assert np.abs(before - after).mean() > 0.3


@pytest.mark.parametrize("part", ["train", "val"])
def test_the_same_poison_in_other_parts_is_seen(
    screen_cells: anndata.AnnData, network: CellFM, split: Split, part: str
) -> None:
    """Of training conditions it moves the weights, of validation ones it moves what training stops by."""
    screen, weights = learned(screen_cells, network, split, "frozen")
    bad = poisoned(screen_cells, rows_of(screen, getattr(split, part)))
    other, other_weights = learned(bad, network, split, "frozen")
    if part == "train":
        for name in ("head.measured", "head.direction.weight"):
            assert (weights[name] - other_weights[name]).abs().max() > 1e-2
    else:
        assert (np.abs(screen.history["val_loss"] / other.history["val_loss"] - 1) > 0.01).all()
        np.testing.assert_allclose(screen.history["train_loss"], other.history["train_loss"], rtol=1e-5)


def test_baselines_see_training_alone(screen_cells: anndata.AnnData, network: CellFM, split: Split) -> None:
    screen = GenePerturbation(screen_cells, network, top_genes=10_000)
    assert screen.screen is not None
    bad = PerturbedCells.read(poisoned(screen_cells, rows_of(screen, split.test)), network.input_spec)
    embeddings = dict(zip(network.genes, network.static_genes.detach().numpy(), strict=True))  # type: ignore[arg-type]
    fitted = [fit_baselines(x.effects(screen.readout, split.train), embeddings) for x in (screen.screen, bad)]
    assert len(fitted[0]) == 5
    for name in fitted[0]:
        one, other = (models[name].predict([*split.test, *split.train]) for models in fitted)
        assert (one == other).all(), name


def test_the_best_epoch_is_kept_by_validation(
    screen_cells: anndata.AnnData, network: CellFM, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights that are kept are those of the smallest validation loss, wherever training went afterwards."""
    screen = GenePerturbation(screen_cells, network, control_cells=12)
    screen.train(split, **FEW | {"max_epochs": 6}, lr=0.03)
    assert screen.saved is not None
    task, losses = screen.saved.task, screen.history["val_loss"]
    assert task.best_loss == pytest.approx(losses.min(), rel=1e-6) and len(losses) == 6
    assert screen.best_epochs == losses.argmin() + 1
    assert task.best is not None
    now = dict(task.named_parameters())
    assert all(torch.equal(now[name], kept) for name, kept in task.best.items())
    # What they say of the held-out perturbations has that loss.
    assert screen.screen is not None
    effects = screen.screen.effects(screen.readout, split.val)
    loss = ((screen.changes(split.val) - effects.delta) ** 2).mean()
    assert loss == pytest.approx(losses.min(), rel=1e-4)
