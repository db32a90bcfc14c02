"""Bulk lines brought to where single cells lie, without a label of a cell.

Shapes: L lines, n cells, P coordinates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Align = Callable[[Floats, Floats, int], tuple[Floats, Floats]]

MOST_CELLS = 1500
"""That lines are transported to; a sample of more."""

BLUR = 0.05
"""Of the transport, in mean squared distances."""

ROUNDS = 200
SHRINK = 0.1
"""Of covariances, towards their mean variance."""


def _standardised(x: Floats, by: Floats) -> Floats:
    return (x - by.mean(0)) / np.maximum(by.std(0), 1e-6)


def unaligned(lines: Floats, cells: Floats, seed: int = 0) -> tuple[Floats, Floats]:
    """Return both standardised by the lines."""
    return _standardised(lines, lines), np.clip(_standardised(cells, lines), -10, 10)


def own_scale(lines: Floats, cells: Floats, seed: int = 0) -> tuple[Floats, Floats]:
    """Return either standardised by itself."""
    return _standardised(lines, lines), _standardised(cells, cells)


def _centred(lines: Floats, cells: Floats) -> tuple[Floats, Floats]:
    """Return either centred; not scaled, as small components would count as much as large ones then."""
    return lines - lines.mean(0), cells - cells.mean(0)


def coral(lines: Floats, cells: Floats, seed: int = 0) -> tuple[Floats, Floats]:
    """Return lines with the covariance of the cells (Sun 2016, CORAL), and cells, either centred."""
    x, y = _centred(lines, cells)
    roots = []
    for side, power in ((x, -0.5), (y, 0.5)):
        covariance = np.cov(side.T).reshape(side.shape[1], -1)
        size = np.trace(covariance) / len(covariance)
        values, vectors = np.linalg.eigh((1 - SHRINK) * covariance + SHRINK * size * np.eye(len(covariance)))
        roots.append((vectors * np.maximum(values, 1e-9) ** power) @ vectors.T)
    return x @ roots[0] @ roots[1], y


def transport(lines: Floats, cells: Floats, seed: int = 0) -> tuple[Floats, Floats]:
    """Return lines moved to the mean of the cells that optimal transport takes them to, and cells.

    Either is standardised by itself first; the transport is blurred by an entropy (Cuturi 2013), and a line goes to the
    mean of its share of the cells (Courty 2017). Cells without the kinds that the lines have are matched all the same.
    """
    x, y = _centred(lines, cells)
    rng = np.random.default_rng(seed)
    some = y if len(y) <= MOST_CELLS else y[np.sort(rng.permutation(len(y))[:MOST_CELLS])]
    cost = np.maximum((x**2).sum(1)[:, None] + (some**2).sum(1)[None] - 2 * x @ some.T, 0)
    plan = sinkhorn(cost / max(float(cost.mean()), 1e-12), blur=BLUR)
    return (plan / plan.sum(1, keepdims=True)) @ some, y


def sinkhorn(cost: Floats, *, blur: float, rounds: int = ROUNDS) -> Floats:
    """Return the plan (L, n) between equal shares that costs least, less `blur` times its entropy; by logarithms."""
    rows, columns = cost.shape
    f, g = np.zeros(rows), np.zeros(columns)
    for _ in range(rounds):
        f = blur * (-np.log(rows) - _log_sum((g[None] - cost) / blur, 1))
        g = blur * (-np.log(columns) - _log_sum((f[:, None] - cost) / blur, 0))
    return np.exp((f[:, None] + g[None] - cost) / blur)


def _log_sum(x: Floats, axis: int) -> Floats:
    top = x.max(axis, keepdims=True)
    return np.log(np.exp(x - top).sum(axis)) + top.squeeze(axis)
