"""Classifiers on arrays and the baselines, on cells that are easy to tell apart."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cellfm_torch.analysis.baselines import BASELINES, available
from cellfm_torch.analysis.expression import log_normalised, variable_genes
from cellfm_torch.analysis.knn import NearestCells
from cellfm_torch.analysis.probe import LinearProbe


def clouds(cells: int = 40, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three directions with noise, classes 0, 1 and 3 of four."""
    rng = np.random.default_rng(seed)
    codes = np.resize([0, 1, 3], cells)
    centres = np.eye(4, 6) * 3
    return (centres[codes] + rng.normal(size=(cells, 6)) * 0.3 + 10).astype(np.float32), codes


def test_nearest_cells() -> None:
    x, codes = clouds()
    nearest = NearestCells(x, codes, num_classes=4, k=5)
    new, expected = clouds(30, seed=1)
    found = nearest.probabilities(new)
    assert (found.argmax(1) == expected).all() and (found[:, 2] == 0).all()
    np.testing.assert_allclose(found.sum(1), 1)
    # Without centring the common offset of 10 would hide the directions: the scale of the centred cells does not count.
    centre = x.mean(0)
    np.testing.assert_allclose(nearest.probabilities((new - centre) * 7 + centre), found, atol=1e-5)  # float32 input
    saved = NearestCells.from_tensors(nearest.tensors(), num_classes=4)
    np.testing.assert_array_equal(saved.probabilities(new), found)
    assert NearestCells(x[:3], codes[:3], num_classes=4, k=15).probabilities(new).shape == (30, 4)  # fewer cells than k


def test_of_two_classes_with_equal_votes_the_nearer_wins() -> None:
    x = np.array([[1.0, 0.1], [1, 0.2], [1, 0.9], [1, 1.0], [-2, -1], [-2, -1.2]])
    codes = np.array([0, 0, 1, 1, 2, 2])
    found = NearestCells(x, codes, num_classes=3, k=4).probabilities(np.array([[1.0, 0.15]]))
    assert found[0, 0] > found[0, 1] > 0.2 and found[0, 2] == 0


def test_linear_probe_is_sklearns() -> None:
    x, codes = clouds()
    x[:, 5] = 4  # a feature that says nothing and has no spread
    probe = LinearProbe.fit(x, codes, num_classes=4)
    scaler = StandardScaler().fit(x.astype(np.float64))
    model = LogisticRegression(max_iter=500).fit(scaler.transform(x.astype(np.float64)), codes)
    new, _ = clouds(30, seed=1)
    new[:, 5] = 4
    found = probe.probabilities(new)
    # L-BFGS stops at a gradient of 1e-4.
    np.testing.assert_allclose(
        found[:, [0, 1, 3]], model.predict_proba(scaler.transform(new.astype(np.float64))), atol=1e-3
    )
    assert (found[:, 2] == 0).all()
    np.testing.assert_array_equal(LinearProbe.from_tensors(probe.tensors()).probabilities(new), found)


@pytest.mark.parametrize("present", [[2], [1, 3]])
def test_linear_probe_of_one_or_two_classes(present: list[int]) -> None:
    x, codes = clouds(40)
    kept = np.isin(codes, [0, 1])
    named = np.array(present)[(codes[kept] == 1).astype(int) % len(present)]
    found = LinearProbe.fit(x[kept], named, num_classes=4).probabilities(x[kept])
    assert (found.argmax(1) == named).all()
    assert (found[:, np.setdiff1d(np.arange(4), present)] == 0).all()


def test_weights_of_classes_move_the_border() -> None:
    rng = np.random.default_rng(0)
    x, codes = rng.normal(size=(400, 2)), (rng.random(400) < 0.1).astype(int)  # nothing to learn but the shares
    plain = LinearProbe.fit(x, codes, num_classes=2).probabilities(x)[:, 1].mean()
    weighted = LinearProbe.fit(x, codes, num_classes=2, class_weights=400 / (2 * np.bincount(codes))).probabilities(x)
    # The mean probability is the share of the class, exactly so without a penalty; weighted, each class has half.
    assert abs(plain - codes.mean()) < 0.01 and abs(weighted[:, 1].mean() - 0.5) < 0.02


def counts_of_types(cells: int = 90, *, seed: int = 0) -> tuple[sp.csr_matrix, np.ndarray]:
    """Three types, each with ten genes of its own among 400 of all rates."""
    rng = np.random.default_rng(seed)
    codes = np.resize([0, 1, 2], cells)
    rates = np.tile(np.linspace(0.5, 6, 400), (3, 1))
    rates[:, :30] = 1.0
    for code in range(3):
        rates[code, 10 * code : 10 * code + 10] = np.linspace(3, 15, 10)
    return sp.csr_matrix(rng.poisson(rates[codes]).astype(np.int32)), codes


def test_variable_genes_are_those_that_differ() -> None:
    counts, _ = counts_of_types()
    values = log_normalised(counts)
    np.testing.assert_allclose(np.expm1(values.toarray()).sum(1), 1e4, rtol=1e-5)  # float32
    chosen = variable_genes(values, number=40)
    assert len(chosen) == 40 and np.isin(np.arange(30), chosen).sum() >= 25 and (np.diff(chosen) > 0).all()
    assert len(variable_genes(values)) == 400  # no more than there are


@pytest.mark.parametrize("name", [name for name in available() if name != "majority"])
def test_baselines_tell_types_apart(name: str) -> None:
    train, codes = counts_of_types()
    cells, expected = counts_of_types(30, seed=1)
    found = BASELINES[name](train, codes, cells, 4, 0)
    assert found.shape == (30, 4) and (found.argmax(1) == expected).mean() > 0.9
    np.testing.assert_allclose(found.sum(1), 1)


def test_majority() -> None:
    train, _ = counts_of_types(10)
    found = BASELINES["majority"](train, np.array([1] * 7 + [0] * 3), train[:2], 3, 0)
    np.testing.assert_allclose(found, [[0.3, 0.7, 0.0]] * 2)
