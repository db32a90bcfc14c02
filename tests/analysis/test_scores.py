"""Scores, splits and thresholds on a handful of cells, by hand or against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from cellfm_torch import UserError
from cellfm_torch.analysis.rejection import Rejection
from cellfm_torch.analysis.scores import (
    calibration,
    class_scores,
    confusion_counts,
    confusion_matrix,
    per_class,
    rare_classes,
    scores,
)
from cellfm_torch.analysis.splits import few_shot, folds, hold_out

EXACT = 1e-12  # the same float64 arithmetic in another order


def some_answers(cells: int = 300, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    true = rng.choice(classes - 1, cells, p=[0.6, 0.3, 0.08, 0.02])  # the last class never occurs
    probabilities = rng.dirichlet(np.ones(classes), cells)
    probabilities[np.arange(cells), true] += 0.5
    return true, probabilities / probabilities.sum(1, keepdims=True)


def test_scores_against_sklearn() -> None:
    true, probabilities = some_answers()
    predicted = probabilities.argmax(1)
    found = scores(true, probabilities, rare=np.array([False, False, False, True, True]))
    assert set(predicted) == set(range(5))
    assert found["accuracy"] == pytest.approx(accuracy_score(true, predicted), abs=EXACT)
    for average in ("macro", "weighted"):  # over the types that occur among the cells
        expected = f1_score(true, predicted, labels=range(4), average=average)
        assert found[f"{average}_f1"] == pytest.approx(expected, abs=EXACT)
    by_class = f1_score(true, predicted, labels=range(5), average=None)
    assert found["rare_f1"] == pytest.approx(by_class[3], abs=EXACT)  # class 4 is rare too, but no cell is of it
    assert np.isnan(scores(true, probabilities, rare=np.zeros(5, dtype=bool))["rare_f1"])
    confusion = confusion_matrix(true, predicted, num_classes=5)
    np.testing.assert_array_equal(confusion, sklearn_confusion(true, predicted, labels=range(5)))
    table = per_class(confusion, list("abcde"))
    assert table.loc["e", "cells"] == 0 and np.isnan(table.loc["e", "recall"]) and table.loc["e", "precision"] == 0
    assert table["cells"].sum() == table["predicted"].sum() == 300


def test_calibration_error_by_hand() -> None:
    """Two cells at 0.9, one of them wrong; two at 0.6, both right: (2 |0.5 - 0.9| + 2 |1 - 0.6|) / 4."""
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    assert scores(np.array([0, 1, 1, 1]), probabilities)["calibration_error"] == pytest.approx(0.4, abs=EXACT)
    assert calibration([1.0, 1.0], [True, True])[0] == 0


def test_names_that_are_no_true_class() -> None:
    truth, predicted = list("aaabbc"), ["a", "a", "unknown", "b", "a", "b"]
    table = confusion_counts(truth, predicted)
    assert list(table.index) == ["a", "b", "c"] and list(table.columns) == ["a", "b", "c", "unknown"]
    assert table.to_numpy().tolist() == [[2, 0, 0, 1], [1, 1, 0, 0], [0, 1, 0, 0]]
    assert class_scores(truth, predicted)["recall"].to_dict() == {"a": 2 / 3, "b": 0.5, "c": 0}
    for call in (confusion_counts, class_scores, calibration):
        with pytest.raises(UserError, match="got 0 of"):
            call([], [])


def test_rare() -> None:
    assert rare_classes(np.repeat([0, 1, 2], [90, 6, 4]), num_classes=4).tolist() == [False, False, True, True]


@pytest.mark.parametrize(("cells", "below"), [(18, 0), (19, 0), (39, 1), (400, 19)])
def test_threshold_is_the_kth_smallest(cells: int, below: int) -> None:
    """k = floor(0.05 (n + 1)): of the calibration cells themselves, k - 1 are below it."""
    _, probabilities = some_answers(cells)
    rejection = Rejection.calibrate(probabilities, share=0.05)
    assert rejection.unknown(probabilities).sum() == below and rejection.cells == cells
    assert (rejection.threshold == 0) == (cells < 19)


def test_few_calibration_cells_reject_no_more_than_asked() -> None:
    """On average over calibrations, also where there are few cells: with 9 a minimum would reject a tenth."""
    _, probabilities = some_answers(40_000)
    parts = probabilities.reshape(1000, 40, 5)
    for number in (9, 25):
        share = np.mean([Rejection.calibrate(p[:number], share=0.05).unknown(p[number:]) for p in parts[:, :40]])
        assert share < 0.05


def test_rejection_on_cells_it_has_not_seen() -> None:
    """Of new cells like these, about the share is rejected; the reported share is of halves that were not looked at."""
    _, probabilities = some_answers(4000)
    rejection = Rejection.calibrate(probabilities[:2000], share=0.1)
    new = rejection.unknown(probabilities[2000:]).mean()
    # Three standard deviations of a share of 0.1 of 2,000 cells, thresholds of 2,000 (1,000) cells: 0.028 (0.035).
    assert abs(new - 0.1) < 0.028 and abs(rejection.false_rejections - 0.1) < 0.035
    unsure = np.full((3, 5), 0.2)
    assert rejection.unknown(unsure).all() and rejection.unknown(np.full((2, 5), np.nan)).all()


def test_ties_and_nothing_to_calibrate_on() -> None:
    certain = np.tile([1.0, 0.0], (50, 1))
    assert not Rejection.calibrate(certain, share=0.5).unknown(certain).any()  # none is the least certain
    nothing = Rejection.calibrate(np.zeros((0, 2)), share=0.05)
    assert np.isnan(nothing.false_rejections) and not nothing.unknown(np.full((4, 2), 0.5)).any()
    with pytest.raises(UserError, match="reject=1.5: must be a share"):
        Rejection.calibrate(certain, share=1.5)


CODES = np.repeat([0, 1, 2, -1], [40, 10, 3, 5])
NAMES = ["a", "b", "c"]


def test_folds_hold_every_class() -> None:
    fold = folds(CODES, 3, NAMES, seed=0)
    assert (fold[CODES < 0] == -1).all() and np.ptp(np.bincount(fold[CODES >= 0])) <= 1
    for code in range(3):
        assert np.ptp(np.bincount(fold[code == CODES], minlength=3)) <= 1
    assert (folds(CODES, 3, NAMES, seed=1) != fold).any() and (folds(CODES, 3, NAMES, seed=0) == fold).all()
    with pytest.raises(UserError, match=r"folds=4: 1 types have fewer cells than folds, such as 'c' \(3\)"):
        folds(CODES, 4, NAMES, seed=0)
    with pytest.raises(UserError, match="folds=1: must be at least 2"):
        folds(CODES, 1, NAMES, seed=0)


def test_few_and_held_out() -> None:
    few = few_shot(CODES, 5, seed=0)
    assert [int(few[code == CODES].sum()) for code in range(3)] == [5, 5, 3] and not few[CODES < 0].any()
    held_out = hold_out(CODES, 0.5, seed=0)
    assert [int(held_out[code == CODES].sum()) for code in range(3)] == [20, 5, 2] and not held_out[CODES < 0].any()
    assert hold_out(np.zeros(1, dtype=int), 0.9, seed=0).tolist() == [False]  # one cell is learned from
    with pytest.raises(UserError, match="few_shot=0: must be at least 1"):
        few_shot(CODES, 0, seed=0)
