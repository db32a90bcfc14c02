"""What is known of an IC50 without a look at line or structure: means of the drug and of the line.

Shapes: L lines, D drugs, n pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pairs = NDArray[np.int64]

SHRINK = 1.0
"""Pairs at the mean of all that each effect is estimated with."""

ROUNDS = 10


@dataclass(frozen=True)
class Means:
    """Additive effects of drugs and lines, from training pairs only.

    Attributes
    ----------
    middle : float
        Mean of all.
    drug : (D,)
        0 for drugs without a training pair.
    line : (L,)
        Likewise; zeros where lines were not asked for.
    """

    middle: float
    drug: Floats
    line: Floats

    def of(self, pairs: Pairs) -> Floats:
        """Return the sum of the effects of pairs, (n,)."""
        return self.middle + self.line[pairs[:, 0]] + self.drug[pairs[:, 1]]


def fit_means(values: Floats, train: Pairs, *, drugs: bool = True, lines: bool = True) -> Means:
    """Return effects fitted to training pairs, alternately.

    Parameters
    ----------
    values : (L, D)
        ln(uM); only those of `train` are read.
    drugs, lines
        Whether there are such effects.
    """
    y = values[train[:, 0], train[:, 1]]
    middle = float(y.mean())
    line, drug = np.zeros(values.shape[0]), np.zeros(values.shape[1])
    for _ in range(ROUNDS if drugs and lines else 1):
        if drugs:
            drug = _effects(y - middle - line[train[:, 0]], train[:, 1], len(drug))
        if lines:
            line = _effects(y - middle - drug[train[:, 1]], train[:, 0], len(line))
    return Means(middle, drug, line)


def _effects(rest: Floats, code: NDArray[np.int64], number: int) -> Floats:
    sums = np.bincount(code, weights=rest, minlength=number)
    return sums / (np.bincount(code, minlength=number) + SHRINK)


def known_means(values: Floats, train: Pairs, kind: str) -> Means:
    """Return the effects that a split of a kind leaves known: of drugs unless they are new, of lines likewise."""
    return fit_means(values, train, drugs=kind != "drug", lines=kind in ("pair", "drug"))
