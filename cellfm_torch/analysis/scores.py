"""How good predicted cell types are: in all, by class, for rare ones, and whether probabilities mean what they say.

Shapes: n cells with a known type, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.errors import UserError

Words = Sequence[Any] | NDArray[Any]
Codes = NDArray[np.integer[Any]]

RARE_SHARE = 0.05
"""A type is rare where fewer of the reference cells than this share are of it."""

BINS = 15
"""Bins of the largest probability, of equal width, for the expected calibration error (arXiv 1706.04599)."""


def confusion_matrix(true: Codes, predicted: Codes, *, num_classes: int) -> NDArray[np.int64]:
    """Return how many cells of each type (row) were given each type (column), (C, C)."""
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (np.asarray(true), np.asarray(predicted)), 1)
    return counts


def per_class(confusion: NDArray[np.int64], names: Sequence[str]) -> pd.DataFrame:
    """Return precision, recall, F1 and number of cells of each class that occurs among the cells or the predictions.

    Precision is 0 where nothing was given the class, recall is NaN where no cell is of it.
    """
    hits, cells, given = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):
        frame = pd.DataFrame(
            {
                "precision": np.where(given > 0, hits / np.maximum(given, 1), 0.0),
                "recall": np.where(cells > 0, hits / np.maximum(cells, 1), np.nan),
                "f1": 2 * hits / np.maximum(cells + given, 1),
                "cells": cells,
                "predicted": given,
            },
            index=pd.Index(list(names), name="cell_type"),
        )
    return frame[(frame["cells"] > 0) | (frame["predicted"] > 0)]


def _same_length(what: str, **columns: Any) -> None:
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) > 1 or not max(sizes.values()):
        text = ", ".join(f"{number} of {name}" for name, number in sizes.items())
        raise UserError(f"{what}: needs one value per cell of each, got {text}")


def confusion_counts(truth: Words, predicted: Words) -> pd.DataFrame:
    """Count cells by true (rows) and predicted class (columns); classes of both in alphabetical order, then others.

    Columns that are no true class, such as "unknown", come last; true classes never predicted get a column of zeros.

    Raises
    ------
    UserError
        If there is not one prediction per cell, or no cell.
    """
    _same_length("confusion matrix", truth=truth, predicted=predicted)
    table = pd.crosstab(pd.Series(list(truth), dtype=str), pd.Series(list(predicted), dtype=str))
    rows = sorted(table.index)
    columns = [*rows, *sorted(set(table.columns) - set(rows))]
    table = table.reindex(index=rows, columns=columns, fill_value=0)
    return table.rename_axis(index="truth", columns="predicted")


def class_scores(truth: Words, predicted: Words) -> pd.DataFrame:
    """Return F1, precision, recall and number of cells of each true class by name, most frequent first.

    Raises
    ------
    UserError
        If there is not one prediction per cell, or no cell.
    """
    counts = confusion_counts(truth, predicted)
    square = counts.reindex(index=counts.columns, fill_value=0)  # nothing is truly "unknown"
    table = per_class(square.to_numpy(), list(square.index))
    table = table[table["cells"] > 0].sort_values("cells", ascending=False, kind="stable")
    return table[["f1", "precision", "recall", "cells"]]


def calibration(probability: Any, correct: Any, *, bins: int = BINS) -> tuple[float, NDArray[np.float64]]:
    """Return the expected calibration error, and by bin: mean probability, share correct, cells (bins, 3).

    The error is the mean over cells of |share right - mean probability| of their bin. Bins are of equal width
    between 0 and 1, the upper end within; empty ones are left out.

    Parameters
    ----------
    probability : (n,)
        Of the predicted class.
    correct : (n,) bool

    Raises
    ------
    UserError
        If there is not one probability per cell, or no cell.
    """
    p, right = np.asarray(probability, dtype=float), np.asarray(correct, dtype=bool)
    _same_length("calibration", probabilities=p, outcomes=right)
    which = np.clip(np.ceil(p * bins).astype(int) - 1, 0, bins - 1)
    number = np.bincount(which, minlength=bins)
    there = number > 0
    mean = np.bincount(which, p, minlength=bins)[there] / number[there]
    share = np.bincount(which, right, minlength=bins)[there] / number[there]
    error = float((np.abs(mean - share) * number[there]).sum() / len(p))
    return error, np.stack([mean, share, number[there]], axis=1)


def scores(
    true: Codes, probabilities: NDArray[np.floating[Any]], *, rare: NDArray[np.bool_] | None = None
) -> dict[str, float]:
    """Return the figures of a row of a table.

    Parameters
    ----------
    true : (n,)
        Class of each cell, at least one.
    probabilities : (n, C)
    rare : (C,) bool, optional
        Classes that are scored apart.

    Returns
    -------
    ``accuracy``, ``macro_f1`` (mean over the types that occur among the cells), ``weighted_f1`` (by their cells),
    ``calibration_error``, ``rare_f1`` (as macro_f1, rare types alone; NaN without any), ``cells``.
    """
    num_classes = probabilities.shape[1]
    confusion = confusion_matrix(true, probabilities.argmax(1), num_classes=num_classes)
    table = per_class(confusion, [str(i) for i in range(num_classes)])
    table = table[table["cells"] > 0]
    of_rare = np.zeros(len(table), dtype=bool) if rare is None else rare[table.index.astype(int)]
    return {
        "accuracy": float(np.diag(confusion).sum() / confusion.sum()),
        "macro_f1": float(table["f1"].mean()),
        "weighted_f1": float(np.average(table["f1"], weights=table["cells"])),
        "calibration_error": calibration(probabilities.max(1), probabilities.argmax(1) == true)[0],
        "rare_f1": float(table["f1"][of_rare].mean()) if of_rare.any() else float("nan"),
        "cells": float(len(true)),
    }


def rare_classes(codes: Codes, *, num_classes: int, share: float = RARE_SHARE) -> NDArray[np.bool_]:
    """Return which classes have fewer than a share of the reference cells, (C,)."""
    return np.bincount(np.asarray(codes), minlength=num_classes) < share * len(codes)
