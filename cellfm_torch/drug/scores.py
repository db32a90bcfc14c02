"""How good predicted IC50 are: over all pairs, and drug by drug.

Shapes: n pairs.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_PAIRS = 5
"""Test pairs of a drug that is scored by itself."""

METRICS = {
    "pearson": "Pearson",
    "spearman": "Spearman",
    "rmse": "RMSE",
    "pearson_drug": "Pearson in a drug",
    "rmse_drug": "RMSE in a drug",
}
"""RMSE in ln(uM). In a drug: the mean over drugs, which knowing the drug's mean does not help."""


def pearson(a: Floats, b: Floats) -> float:
    """Return the correlation; NaN where one side is constant or there are fewer than two."""
    if len(a) < 2 or np.ptp(a) < 1e-9 or np.ptp(b) < 1e-9:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def spearman(a: Floats, b: Floats) -> float:
    """Return the correlation of ranks, ties shared."""
    return pearson(*(pd.Series(x).rank().to_numpy() for x in (a, b)))


def rmse(a: Floats, b: Floats) -> float:
    """Return the root of the mean squared difference."""
    return float(np.sqrt(np.mean((a - b) ** 2)))


def per_drug(true: Floats, predicted: Floats, drug: NDArray[np.int64]) -> pd.DataFrame:
    """Return scores of each drug with enough pairs: ``drug``, ``pairs``, ``pearson``, ``rmse``.

    A constant prediction correlates with nothing and has a Pearson of 0.
    """
    rows = []
    for one in np.unique(drug):
        own = drug == one
        if own.sum() >= LEAST_PAIRS:
            value = pearson(true[own], predicted[own])
            constant = np.isnan(value) and np.ptp(true[own]) >= 1e-9
            rows.append((int(one), int(own.sum()), 0.0 if constant else value, rmse(true[own], predicted[own])))
    return pd.DataFrame(rows, columns=["drug", "pairs", "pearson", "rmse"])


def scores(true: Floats, predicted: Floats, drug: NDArray[np.int64]) -> dict[str, float]:
    """Return :data:`METRICS` of predicted ln(uM) (n,) of pairs with these drugs."""
    table = per_drug(true, predicted, drug)
    return {
        "pearson": pearson(true, predicted),
        "spearman": spearman(true, predicted),
        "rmse": rmse(true, predicted),
        "pearson_drug": float(table["pearson"].mean()) if len(table) else float("nan"),
        "rmse_drug": float(table["rmse"].mean()) if len(table) else float("nan"),
    }
