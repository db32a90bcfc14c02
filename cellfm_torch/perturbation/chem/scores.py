"""How alike two sets of cells are: maximum mean discrepancy, Wasserstein distance, r2 of means.

Shapes: n and m cells, P coordinates, G genes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the kernels, in median distances."""

DRAWS = 5
"""Of the cells of the larger side."""


def squared_distances(a: Floats, b: Floats) -> Floats:
    """Return those of each of (n, P) from each of (m, P), (n, m)."""
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0)


def median_distance(x: Floats) -> float:
    """Return the median distance of two of the cells (n, P); of at most 1,000 that lie evenly in their order."""
    some = x[np.linspace(0, len(x) - 1, min(len(x), 1000)).astype(int)]
    found = squared_distances(some, some)[np.triu_indices(len(some), 1)]
    return float(np.sqrt(np.median(found))) if len(found) else 1.0


def mmd(a: Floats, b: Floats, *, median: float) -> float:
    """Return the unbiased squared maximum mean discrepancy of (n, P) and (m, P), mean over Gaussian kernels.

    0 on average for two samples of one distribution, so negative values happen (Gretton 2012).

    Parameters
    ----------
    median
        Unit of the kernels' widths, 0.25 to 4 of them: the same for everything that is compared.
    """
    n, m = len(a), len(b)
    if n < 2 or m < 2:
        return float("nan")
    within_a, within_b, between = (squared_distances(*pair) for pair in ((a, a), (b, b), (a, b)))
    total = 0.0
    for width in WIDTHS:
        scale = -0.5 / (width * median) ** 2
        k_a, k_b = np.exp(scale * within_a), np.exp(scale * within_b)
        total += (k_a.sum() - np.trace(k_a)) / (n * (n - 1)) + (k_b.sum() - np.trace(k_b)) / (m * (m - 1))
        total -= 2 * np.exp(scale * between).mean()
    return float(total / len(WIDTHS))


def wasserstein(a: Floats, b: Floats, *, seed: int = 0) -> float:
    """Return the Wasserstein-2 distance of (n, P) and (m, P): exact, of as many cells of either.

    Where one side has more cells it is the mean of several random choices of them. Of few cells it is far from zero
    even where both are of one distribution, and less for predictions that scatter less than cells do.
    """
    from scipy.optimize import linear_sum_assignment

    rng, number = np.random.default_rng(seed), min(len(a), len(b))
    if number == 0:
        return float("nan")
    found = []
    for _ in range(1 if len(a) == len(b) else DRAWS):
        some, others = (x if len(x) == number else x[rng.permutation(len(x))[:number]] for x in (a, b))
        cost = squared_distances(some, others)
        found.append(np.sqrt(cost[linear_sum_assignment(cost)].mean()))
    return float(np.mean(found))


def r2(predicted: Floats, true: Floats) -> float:
    """Return the coefficient of determination of means of genes (G,), at most 1; NaN where the truth is constant."""
    spread = ((true - true.mean()) ** 2).sum()
    return float(1 - ((predicted - true) ** 2).sum() / spread) if spread > 0 else float("nan")
