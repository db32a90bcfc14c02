"""Expression of marker genes, read from coordinates of cells: ridge regression.

Shapes: n cells, P coordinates, G marker genes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PENALTIES = (0.0, 1.0, 10.0, 100.0, 1000.0)
FOLDS = 5


@dataclass(frozen=True)
class Readout:
    """Linear in the coordinates, so that a change of them is a change of expression wherever a cell is.

    Attributes
    ----------
    weights : (P, G)
        log1p(CP10K) for each unit.
    """

    weights: Floats

    @classmethod
    def fit(cls, x: Floats, expression: Floats, *, seed: int = 0) -> Readout:
        """Fit to training cells, (n, P) and (n, G); the penalty is chosen by cross-validation."""
        fold = np.random.default_rng(seed).permutation(len(x)) % FOLDS
        errors = [
            sum(_error(_ridge(x[fold != k], expression[fold != k], p), x, expression, fold == k) for k in range(FOLDS))
            for p in PENALTIES
        ]
        return cls(_ridge(x, expression, PENALTIES[int(np.argmin(errors))]))

    def change(self, steps: Floats) -> Floats:
        """Return what steps (n, P) do to expression, (n, G)."""
        return steps @ self.weights


def _ridge(x: Floats, y: Floats, penalty: float) -> Floats:
    centred = x - x.mean(0)
    gram = centred.T @ centred + (penalty + 1e-6) * np.eye(x.shape[1])
    return np.linalg.solve(gram, centred.T @ (y - y.mean(0)))


def _error(weights: Floats, x: Floats, y: Floats, held_out: NDArray[np.bool_]) -> float:
    found = (x[held_out] - x[~held_out].mean(0)) @ weights + y[~held_out].mean(0)
    return float(((found - y[held_out]) ** 2).sum())
