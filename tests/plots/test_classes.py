"""Pictures of a classification and of scores: numbers by hand, what is drawn, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_fscore_support

from cellfm_torch.analysis.scores import calibration, class_scores
from cellfm_torch.errors import UserError
from cellfm_torch.plots.abundance import abundance_plot
from cellfm_torch.plots.cells import save_figure
from cellfm_torch.plots.classes import class_bars, confusion_matrix, reliability_curve
from cellfm_torch.plots.scores import score_table

matplotlib.use("Agg")

TRUTH = ["B"] * 5 + ["T"] * 8 + ["NK"] * 2
PREDICTED = ["B"] * 4 + ["unknown"] + ["T"] * 6 + ["B", "unknown"] + ["T", "T"]


def axis() -> Any:
    return Figure(layout="constrained").add_subplot()


def texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_confusion_matrix_draws_shares_and_cells() -> None:
    ax = axis()
    assert confusion_matrix(TRUTH, PREDICTED, ax=ax, title="t") is ax
    shares = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    assert shares[0, 0] == 0.8 and sorted(texts(ax)) == ["1", "1", "1", "2", "4", "6"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["B (5)", "NK (2)", "T (8)"]
    assert confusion_matrix(TRUTH, PREDICTED).figure is not ax.figure  # a figure of its own


def test_class_scores_are_those_of_scikit_learn() -> None:
    table = class_scores(TRUTH, PREDICTED)
    assert list(table.index) == ["T", "B", "NK"]
    found = precision_recall_fscore_support(TRUTH, PREDICTED, labels=["T", "B", "NK"], zero_division=0)
    for name, expected in zip(("precision", "recall", "f1", "cells"), found, strict=True):
        np.testing.assert_allclose(table[name], expected, rtol=1e-12)
    ax = axis()
    assert class_bars(table, ax=ax) is ax
    widths = [bar.get_width() for bar in ax.patches]
    np.testing.assert_allclose(widths, table[["f1", "precision", "recall"]].to_numpy().T.ravel(), rtol=1e-12)


def test_calibration() -> None:
    # The upper end of a bin belongs to it.
    probability, correct = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.6, 1.0]), np.array([1, 1, 1, 0, 1, 0, 1])
    error, curve = calibration(probability, correct, bins=10)
    top, middle = (4 * 0.95 + 1) / 5, 0.575
    np.testing.assert_allclose(curve, [[middle, 0.5, 2], [top, 0.8, 5]], rtol=1e-12)
    assert error == pytest.approx((2 * abs(middle - 0.5) + 5 * abs(top - 0.8)) / 7, rel=1e-12)
    ax = axis()
    assert reliability_curve(probability, correct, ax=ax, bins=10) is ax
    assert f"expected calibration error {error:.3f}" in texts(ax)


def test_score_table_marks_the_best() -> None:
    table = pd.DataFrame({"NMI": [0.5, 0.75], "total (0.6, 0.4)": [0.4, np.nan]}, index=["ours", "PCA"])
    ax = axis()
    assert score_table(table, ax=ax, title="t") is ax
    weights = {text.get_text(): text.get_fontweight() for text in ax.texts}
    assert weights == {"0.500": "normal", "0.750": "bold", "0.400": "bold", "-": "normal"}


def test_enrichment_is_grey_where_nothing_is_significant() -> None:
    ax = axis()
    assert abundance_plot(np.eye(4)[:, :2], [0, 2.0, -1.0, 0], ax=ax) is ax
    grey, coloured = ax.collections[:2]
    assert len(grey.get_offsets()) == 2 and coloured.get_array().tolist() == [2, -1]
    assert coloured.get_clim() == (-2, 2)  # white is 0
    abundance_plot(np.eye(4)[:, :2], np.zeros(4), ax=axis())


def test_files(tmp_path: Path) -> None:
    for ending, start in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        figure = Figure(layout="constrained")
        confusion_matrix(TRUTH, PREDICTED, ax=figure.add_subplot())
        assert save_figure(figure, tmp_path / f"x.{ending}").read_bytes().startswith(start)


def test_refusals() -> None:
    for call, says in (
        (lambda: confusion_matrix(["a"], ["a", "b"]), "got 1 of truth, 2 of predicted"),
        (lambda: class_bars(pd.DataFrame({"f1": [1.0]})), "lacks precision, recall, cells"),
        (lambda: reliability_curve([0.5, 1.2], [1, 0]), "found 0.5 to 1.2"),
        (lambda: score_table(pd.DataFrame()), "no scores to draw"),
        (lambda: abundance_plot(np.zeros((3, 2)), [1, 2]), "2 values for 3 cells"),
    ):
        with pytest.raises(UserError, match=says):
            call()
