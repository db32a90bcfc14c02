"""Scores of cell-eval beside ours, on cells with planted effects."""

from __future__ import annotations

import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellfm_torch.analysis.expression import log_normalised
from cellfm_torch.errors import UserError
from cellfm_torch.paths import PBMC3K
from cellfm_torch.perturbation.gene.celleval import cell_eval_scores, shifted_cells
from cellfm_torch.perturbation.gene.effects import Effects
from cellfm_torch.perturbation.gene.scores import condition_scores
from cellfm_torch.perturbation.gene.simulation import simulate


@pytest.fixture(scope="module")
def real() -> anndata.AnnData:
    """Six conditions, a few hundred genes."""
    simulated = simulate(anndata.read_h5ad(PBMC3K), singles=6, doubles=0, cells_per_condition=80, control_cells=200)
    # Without the perturbed genes: cell-eval leaves out a condition's own in discrimination, we all of them.
    moved = (np.abs(simulated.truth.lfc).sum(0) > 0) & ~simulated.adata.var_names.isin(simulated.truth.private)
    cells = simulated.adata[:, moved].copy()
    cells.X = log_normalised(cells.X)
    cells.obs["condition"] = cells.obs["condition"].astype(str).str.removesuffix("+ctrl")
    return cells


def effects(cells: anndata.AnnData) -> Effects:
    words = cells.obs["condition"].to_numpy()
    names = sorted(set(words) - {"ctrl"})
    x = sp.csr_matrix(cells.X).toarray().astype(np.float64)
    mean = np.stack([x[words == name].mean(0) for name in names])
    control = x[words == "ctrl"].mean(0)
    marked = np.argsort(-np.abs(mean - control), axis=1)[:, :20]
    return Effects(tuple(cells.var_names), tuple((n,) for n in names), mean, control, marked, np.full(len(names), 80))


def test_agrees_with_our_scores(real: anndata.AnnData, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cell_eval")
    truth = effects(real)
    half = truth.control + 0.5 * truth.delta[::-1] + 0.3 * truth.delta
    control = real.X[(real.obs["condition"] == "ctrl").to_numpy()]
    predicted = shifted_cells(control, half, truth.conditions, truth.genes, most=200)
    table = cell_eval_scores(predicted, real).pivot(index="condition", columns="metric", values="value")
    assert list(table.index) == [c[0] for c in truth.conditions]
    assert {"mse", "pearson_delta", "discrimination_score_l1", "overlap_at_N", "de_direction_match"} <= set(table)
    out = capfd.readouterr()
    assert out.out == out.err == ""
    # What was given are the predicted cells, whose means are cut off at 0: score these means.
    ours = condition_scores(effects(predicted).mean, truth).set_index("condition")
    number = len(truth.conditions)
    # Both take the same means; cell-eval computes in float32.
    np.testing.assert_allclose(table["mse"], ours["mse"], rtol=1e-4)
    np.testing.assert_allclose(table["pearson_delta"], ours["pearson_delta"], atol=1e-4)
    ranked = (ours["discrimination"] * (number - 1) + 1) / number
    np.testing.assert_allclose(table["discrimination_score_l1"], ranked, atol=1e-12)


def test_the_cells_themselves_are_perfect(real: anndata.AnnData) -> None:
    pytest.importorskip("cell_eval")
    table = cell_eval_scores(real, real, profile="minimal").pivot(index="condition", columns="metric", values="value")
    assert (table["overlap_at_N"] == 1).all() and (table["discrimination_score_l1"] == 1).all()
    np.testing.assert_allclose(table["mse"], 0, atol=1e-12)


def test_counts_are_normalised_and_left_alone() -> None:
    pytest.importorskip("cell_eval")
    rng = np.random.default_rng(0)
    words = np.repeat(["ctrl", "A", "B"], 30)
    counts = sp.csr_matrix(rng.poisson(2.0, (90, 12)).astype(np.float32))
    cells = anndata.AnnData(counts, obs=pd.DataFrame({"condition": words}, index=[str(i) for i in range(90)]))
    before = cells.X.copy()
    table = cell_eval_scores(cells, cells, profile="anndata")
    assert (before != cells.X).nnz == 0
    assert set(table["condition"]) == {"A", "B"}


def test_shifted_cells_have_the_predicted_mean(real: anndata.AnnData) -> None:
    control = real.X[(real.obs["condition"] == "ctrl").to_numpy()].toarray()
    up = control.mean(0) + 0.5
    cells = shifted_cells(control, up[None], [("B", "X")], list(real.var_names), most=70)
    drawn = cells[(cells.obs["condition"] == "B+X").to_numpy()].X
    assert drawn.shape == (70, control.shape[1]) and drawn.min() >= 0
    # Where no cell had to end at 0 the mean is that asked for, in float32.
    whole = (drawn > 0).all(0)
    assert whole.any()
    np.testing.assert_allclose(drawn.mean(0)[whole], up[whole], atol=1e-5)


def test_says_what_is_wrong(real: anndata.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="same genes in the same order"):
        cell_eval_scores(real[:, ::-1], real)
    with pytest.raises(UserError, match="only the predicted or only the real cells have FOS"):
        cell_eval_scores(real[(real.obs["condition"] != "FOS").to_numpy()], real)
    with pytest.raises(UserError, match="no column 'target'"):
        cell_eval_scores(real, real, column="target")
    with pytest.raises(UserError, match="no cell is called 'non-targeting'"):
        cell_eval_scores(real, real, control="non-targeting")
    monkeypatch.setitem(sys.modules, "cell_eval", None)
    with pytest.raises(UserError, match="cell-eval is not installed"):
        cell_eval_scores(real, real)
