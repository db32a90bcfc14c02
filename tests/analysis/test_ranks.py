"""Rank sums of all columns of a sparse matrix, against scipy one column at a time."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import mannwhitneyu

from cellfm_torch.analysis.ranks import rank_sums

B, G, C = 60, 12, 3


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.poisson(rng.uniform(0.2, 3, G), (B, G)) * rng.choice([1.0, 0.7], (B, G))
    x[:, 0] = 0  # nobody
    x[:, 1] = 2  # all the same
    return x, rng.integers(-1, C, B)


@pytest.mark.parametrize("stored_only", [False, True])
def test_equals_scipy(drawn: tuple[np.ndarray, np.ndarray], stored_only: bool) -> None:
    x, codes = drawn
    found = rank_sums(sp.csr_matrix(x), codes, C, stored_only=stored_only)
    for group in range(C):
        for gene in range(G):
            part = (codes >= 0) & ((x[:, gene] > 0) | (not stored_only))
            inside, outside = x[part & (codes == group), gene], x[part & (codes != group), gene]
            if not len(inside) or not len(outside):
                assert np.isnan(found.auc[group, gene]) and found.p[group, gene] == 1
                continue
            expected = mannwhitneyu(inside, outside, use_continuity=False, method="asymptotic")
            assert found.auc[group, gene] == pytest.approx(expected.statistic / len(inside) / len(outside), abs=1e-12)
            if np.ptp(np.concatenate([inside, outside])) == 0:
                assert found.z[group, gene] == 0 and found.p[group, gene] == 1
            else:
                assert found.p[group, gene] == pytest.approx(expected.pvalue, rel=1e-9)


def test_direction() -> None:
    x = sp.csr_matrix(np.array([[3.0, 0], [2, 0], [0, 1], [0, 4]]))
    found = rank_sums(x, np.array([0, 0, 1, 1]), 2)
    assert found.auc.tolist() == [[1, 0], [0, 1]] and found.z[0, 0] > 0 > found.z[0, 1]
