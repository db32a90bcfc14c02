"""Scores against slow and obvious versions, and what they are of known distributions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cellfm_torch.perturbation.chem.scores import WIDTHS, median_distance, mmd, r2, wasserstein


def test_mmd_against_loops() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)) + 1
    total = 0.0
    for width in WIDTHS:

        def kernel(x: np.ndarray, y: np.ndarray, width: float = width) -> float:
            return float(np.exp(-((x - y) ** 2).sum() / (2 * (width * 1.7) ** 2)))

        total += np.mean([kernel(a[i], a[j]) for i, j in itertools.permutations(range(5), 2)])
        total += np.mean([kernel(b[i], b[j]) for i, j in itertools.permutations(range(4), 2)])
        total -= 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert mmd(a, b, median=1.7) == pytest.approx(total / len(WIDTHS), abs=1e-12)


def test_mmd_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    same = [mmd(rng.normal(size=(20, 3)), rng.normal(size=(20, 3)), median=2.0) for _ in range(200)]
    # Within three standard errors of nothing; the biased estimate would be about 0.05.
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(200) < 0.01
    assert mmd(rng.normal(size=(20, 3)), rng.normal(size=(20, 3)) + 1, median=2.0) > 10 * np.std(same) / np.sqrt(20)
    assert np.isnan(mmd(np.zeros((1, 2)), np.zeros((3, 2)), median=1.0))


def test_wasserstein_against_all_couplings() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    best = min(((a - b[list(order)]) ** 2).sum(1).mean() for order in itertools.permutations(range(5)))
    assert wasserstein(a, b) == pytest.approx(np.sqrt(best), abs=1e-12)
    assert wasserstein(a, a + np.array([3.0, 4.0])) == pytest.approx(5.0, abs=1e-12)
    assert wasserstein(np.vstack([a, a]), a, seed=1) == wasserstein(np.vstack([a, a]), a, seed=1)
    assert np.isnan(wasserstein(a[:0], b))


def test_r2_is_the_coefficient_of_determination() -> None:
    true = np.array([1.0, 2.0, 3.0])
    assert r2(true, true) == 1 and r2(np.full(3, 2.0), true) == 0 and r2(-true, true) < 0
    assert np.isnan(r2(true, np.ones(3)))


def test_median_distance() -> None:
    assert median_distance(np.array([[0.0], [1.0], [5.0]])) == 4.0
    assert median_distance(np.zeros((1, 2))) == 1.0
