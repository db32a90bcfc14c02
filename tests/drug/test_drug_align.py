"""Alignment undoes what differs between lines and cells; scores are those of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cellfm_torch.drug.align import coral, sinkhorn, transport, unaligned
from cellfm_torch.drug.binary import aupr, auroc, bootstrapped
from cellfm_torch.drug.methods import logistic


def shifted(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lines and cells told by their first two coordinates, those of cells sheared, shifted, and more spread out."""
    rng = np.random.default_rng(seed)
    sides, truth = [], []
    for number in (120, 300):
        kind = np.arange(number) % 2 == 0
        x = rng.normal(size=(number, 4)) * [0.5, 2.0, 0.5, 0.5]
        x[:, 0] += 2.0 * kind
        sides.append(x)
        truth.append(kind)
    turn = np.eye(4)
    turn[1, 0] = 1.5  # what does not tell the kinds leaks into what does
    return sides[0], truth[0], sides[1] @ turn + [5.0, 0, 0, 0], truth[1]


def test_transport_undoes_a_shear() -> None:
    lines, labels, cells, truth = shifted()
    moved = {"none": unaligned(lines, cells), "transport": transport(lines, cells)}
    found = {name: auroc(truth, logistic(x, y, labels, 0)) for name, (x, y) in moved.items()}
    # The kinds lie four standard deviations apart, and one and a half of the large coordinate is added to that.
    assert found["transport"] > found["none"] + 0.1 and found["transport"] > 0.85


def test_coral_gives_the_covariance_of_the_cells() -> None:
    lines, _, cells, _ = shifted()
    x, y = coral(lines, cells)
    want = np.cov(y.T)
    assert np.abs(np.cov(x.T) - want).max() < 0.35 * np.abs(want).max()  # either is shrunk by a tenth
    assert np.abs(x.mean(0)).max() < 1e-9


def test_the_plan_is_between_equal_shares_and_cheap() -> None:
    x = np.arange(6.0)
    plan = sinkhorn((x[:, None] - x[::-1][None]) ** 2 / 10, blur=0.01)
    np.testing.assert_allclose(plan.sum(0), 1 / 6, atol=1e-6)
    np.testing.assert_allclose(plan.sum(1), 1 / 6, atol=1e-3)  # one half of a round behind
    assert (plan.argmax(1) == np.arange(5, -1, -1)).all()


def test_transport_lands_among_the_cells() -> None:
    lines, _, cells, _ = shifted()
    x, y = transport(lines, cells)
    assert (x.min(0) >= y.min(0) - 1e-9).all() and (x.max(0) <= y.max(0) + 1e-9).all()


def test_scores_are_those_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth, score = rng.random(40) < 0.3, rng.integers(0, 8, 40).astype(float)  # with ties
        assert auroc(truth, score) == pytest.approx(roc_auc_score(truth, score))
        assert aupr(truth, score) == pytest.approx(average_precision_score(truth, score))
    assert np.isnan(auroc(np.ones(3, dtype=bool), np.arange(3.0)))
    assert np.isnan(aupr(np.zeros(3, dtype=bool), np.arange(3.0)))


def row(table: Any, name: str) -> Any:
    return table.set_index("method").loc[name]


def test_intervals() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(200) < 0.5
    answers = {"ours": truth + rng.normal(0, 0.5, 200), "other": rng.normal(size=200)}
    table = bootstrapped(truth, answers, ours="ours")
    ours, other = row(table, "ours"), row(table, "other")
    assert ours["auroc_low"] < ours["auroc"] < ours["auroc_high"] and other["gain_low"] > 0
    assert ours["gain"] == ours["gain_low"] == ours["gain_high"] == 0
    groups = np.repeat(np.arange(4), 50)  # few donors say less than many cells
    wide = row(bootstrapped(truth + 0 > 0, {"ours": answers["ours"] + groups}, ours="ours", groups=groups), "ours")
    assert np.isfinite(wide["auroc_low"]) and wide["auroc_low"] <= wide["auroc"] <= wide["auroc_high"]
