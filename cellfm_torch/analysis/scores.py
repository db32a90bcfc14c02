"""How good predicted cell types are: in all, by class, for rare ones, and whether probabilities mean what they say.

Shapes: n cells with a known type, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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


def calibration_error(true: Codes, probabilities: NDArray[np.floating[Any]], *, bins: int = BINS) -> float:
    """Return the expected calibration error: |share right - mean probability| over bins of the largest probability."""
    best, sure = probabilities.argmax(1), probabilities.max(1)
    right = best == true
    which = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    sizes = np.bincount(which, minlength=bins)
    gaps = np.abs(np.bincount(which, weights=right - sure, minlength=bins))
    return float(gaps.sum() / max(1, sizes.sum()))


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
        "calibration_error": calibration_error(true, probabilities),
        "rare_f1": float(table["f1"][of_rare].mean()) if of_rare.any() else float("nan"),
        "cells": float(len(true)),
    }


def rare_classes(codes: Codes, *, num_classes: int, share: float = RARE_SHARE) -> NDArray[np.bool_]:
    """Return which classes have fewer than a share of the reference cells, (C,)."""
    return np.bincount(np.asarray(codes), minlength=num_classes) < share * len(codes)
