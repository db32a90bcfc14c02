"""Scores of predicted effects: by hand, at the edges, and what trivial predictions reach."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest

from cellfm_torch.errors import UserError
from cellfm_torch.paths import PBMC3K
from cellfm_torch.perturbation.gene.effects import Effects
from cellfm_torch.perturbation.gene.scores import (
    METRICS,
    compare,
    condition_scores,
    discrimination,
    pearson,
    summarise,
)
from cellfm_torch.perturbation.gene.simulation import exact_effects, simulate


def by_hand() -> Effects:
    control = np.array([1.0, 1.0, 1.0, 1.0])
    mean = np.array([[0.0, 1.0, 3.0, 1.0], [1.0, 2.0, 1.0, 0.0]])
    return Effects(("A", "B", "C", "D"), (("A",), ("B",)), mean, control, np.array([[2, 0], [1, 3]]), np.array([9, 9]))


@pytest.fixture(autouse=True)
def no_warnings() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_by_hand() -> None:
    truth = by_hand()
    table = condition_scores([[0.0, 1.0, 2.0, 1.0], [1.0, 2.0, 1.0, 2.0]], truth)
    assert list(table) == ["condition", *METRICS] and list(table["condition"]) == ["A", "B"]
    assert table["mse"].tolist() == [0.25, 1.0]
    assert table["mse_top20"].tolist() == [0.5, 2.0]
    # (-1, 0, 1, 0) with (-1, 0, 2, 0), and (0, 1, 0, 1) with (0, 1, 0, -1)
    expected = [np.corrcoef([-1, 0, 1, 0], [-1, 0, 2, 0])[0, 1], np.corrcoef([0, 1, 0, 1], [0, 1, 0, -1])[0, 1]]
    np.testing.assert_allclose(table["pearson_delta"], expected, atol=1e-12)
    assert table["pearson_delta_top20"].tolist() == [pytest.approx(1.0), 0.0]
    assert table["direction"].tolist() == [1.0, 0.5]
    assert table["discrimination"].tolist() == [1.0, 1.0]


def test_no_change_gets_what_it_should() -> None:
    truth = exact_effects(simulate(anndata.read_h5ad(PBMC3K), cells_per_condition=1, control_cells=1).truth)
    table = condition_scores(np.tile(truth.control, (len(truth.conditions), 1)), truth)
    assert (table["pearson_delta"] == 0).all() and (table["pearson_delta_top20"] == 0).all()
    assert (table["direction"] == 0.5).all()
    assert table["discrimination"].mean() == pytest.approx(0.5, abs=1e-12)
    np.testing.assert_allclose(table["mse"], (truth.delta**2).mean(1), rtol=1e-12)


def test_the_truth_is_perfect() -> None:
    truth = exact_effects(simulate(anndata.read_h5ad(PBMC3K), cells_per_condition=1, control_cells=1).truth)
    table = condition_scores(truth.mean, truth)
    assert (table[["mse", "mse_top20"]] == 0).all(axis=None)
    np.testing.assert_allclose(table[list(METRICS[2:])], 1, atol=1e-12)
    opposite = condition_scores(truth.control - truth.delta, truth)
    np.testing.assert_allclose(opposite["pearson_delta"], -1, atol=1e-12)
    assert (opposite["direction"] == 0).all()


def test_a_common_shift_is_not_seen_by_pearson_but_by_error() -> None:
    truth = by_hand()
    table = condition_scores(truth.mean + 3, truth)
    np.testing.assert_allclose(table["pearson_delta"], 1, atol=1e-12)
    np.testing.assert_allclose(table["mse"], 9)
    constant = condition_scores(np.tile(truth.control + 3, (2, 1)), truth)
    assert (constant["pearson_delta"] == 0).all()


def test_discrimination_ranks() -> None:
    genes = tuple("ABCDE")
    mean = np.diag([1.0, 2.0, 3.0, 4.0])
    mean = np.hstack([mean, np.zeros((4, 1))])
    truth = Effects(genes, (("P",), ("Q",), ("R",), ("S",)), mean, np.zeros(5), np.zeros((4, 1), int), np.ones(4, int))
    assert discrimination(mean, truth).tolist() == [1, 1, 1, 1]
    # A prediction of nothing is nearest to the weakest effect.
    np.testing.assert_allclose(discrimination(np.zeros((4, 5)), truth), [1, 2 / 3, 1 / 3, 0])
    swapped = discrimination(mean[[1, 0, 2, 3]], truth)
    np.testing.assert_allclose(swapped, [2 / 3, 2 / 3, 1, 1])
    # Equal distances share their ranks.
    twins = Effects(genes, truth.conditions[:3], mean[[0, 0, 1]], np.zeros(5), np.zeros((3, 1), int), np.ones(3, int))
    np.testing.assert_allclose(discrimination(mean[[0, 0, 1]], twins), [0.75, 0.75, 1])
    alone = Effects(genes, truth.conditions[:1], mean[:1], np.zeros(5), np.zeros((1, 1), int), np.ones(1, int))
    assert np.isnan(discrimination(mean[:1], alone)).all()


def test_discrimination_leaves_perturbed_genes_out() -> None:
    truth = by_hand()
    # Right in A and B, which are perturbed; in C and D nearer to the other's truth.
    prediction = np.array([[0.0, 1.0, 1.0, 0.0], [1.0, 2.0, 3.0, 1.0]])
    assert discrimination(prediction, truth).tolist() == [0.0, 0.0]


def test_discrimination_by_group() -> None:
    truth = exact_effects(simulate(anndata.read_h5ad(PBMC3K), cells_per_condition=1, control_cells=1).truth)
    groups = ["single" if len(c) == 1 else "double" for c in truth.conditions]
    still = np.tile(truth.control, (len(truth.conditions), 1))
    for kinds, expected in ((None, False), (groups, True)):
        table = condition_scores(still, truth, groups=kinds).assign(group=groups)
        means = table.groupby("group")["discrimination"].mean()
        assert bool(means["single"] == pytest.approx(0.5, abs=1e-12)) is expected
        assert bool(means["double"] == pytest.approx(0.5, abs=1e-12)) is expected
        assert means["single"] >= means["double"]


def test_constant_rows_do_not_raise() -> None:
    truth = by_hand()
    still = Effects(
        truth.genes, truth.conditions, np.tile(truth.control, (2, 1)), truth.control, truth.marked, truth.cells
    )
    table = condition_scores(truth.mean, still)
    assert table[["pearson_delta", "pearson_delta_top20", "direction"]].isna().all(axis=None)
    assert pearson(np.array([[1.0, 1.0]]), np.array([[1.0, 2.0]])).tolist() == [0.0]
    one = pearson(np.array([[1.0]]), np.array([[1.0]]))
    assert np.isnan(one).all()


def test_says_what_is_wrong() -> None:
    truth = by_hand()
    with pytest.raises(ValueError, match=r"\(1, 4\), measured are \(2, 4\)"):
        condition_scores(truth.mean[:1], truth)
    broken = truth.mean.copy()
    broken[1, 2] = np.nan
    with pytest.raises(UserError, match="prediction of B is not finite"):
        condition_scores(broken, truth)


def test_summary_is_over_seeds_of_means_over_conditions() -> None:
    truth = by_hand()
    parts = []
    for seed, off in ((0, 1.0), (1, 3.0)):
        table = condition_scores(truth.mean + np.array([[off], [0.0]]), truth)
        parts.append(table.assign(model="m", seed=seed, group="unseen single"))
    summary = summarise(pd.concat(parts)).set_index("metric")
    row = summary.loc["mse"]
    assert (row["mean"], row["seeds"], row["conditions"]) == (2.5, 2, 2)  # means 0.5 and 4.5
    assert row["sd"] == pytest.approx(np.std([0.5, 4.5], ddof=1))
    assert list(summary.index) == list(METRICS)
    assert np.isnan(summarise(parts[0])["sd"]).all()


def test_a_model_stands_beside_the_best_of_the_others() -> None:
    truth = by_hand()
    parts = []
    # Mean squared errors of two seeds: the model 1 and 4, "a" 2 and 2, "b" 3 and 3.
    for seed, offs in enumerate(({"m": 1.0, "a": 2**0.5, "b": 3**0.5}, {"m": 2.0, "a": 2**0.5, "b": 3**0.5})):
        for model, off in offs.items():
            table = condition_scores(truth.mean + off, truth)
            parts.append(table.assign(model=model, seed=seed, group="combo seen 2"))
    table = compare(pd.concat(parts), "m").set_index("metric")
    row = table.loc["mse"]
    assert (row["baseline"], row["better"], row["seeds_better"], row["seeds"]) == ("a", "less", 1, 2)
    np.testing.assert_allclose([row["mean"], row["baseline_mean"], row["gain"]], [2.5, 2.0, -0.5])
    assert row["gain_sd"] == pytest.approx(np.std([1.0, -2.0], ddof=1))
    assert table.loc["direction", "better"] == "more"
    with pytest.raises(ValueError, match="nothing to compare 'other' with"):
        compare(pd.concat(parts), "other")
