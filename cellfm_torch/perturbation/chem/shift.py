"""How far cells move on the whole: a Gaussian process over compound, dose and context.

It knows how sure each mean is, costs nothing to train, and far from everything that it has seen it says the mean over
compounds, at a dose of zero nothing.

Shapes: M conditions, Q conditions asked about, F numbers of a compound, P coordinates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.perturbation.chem.compounds import similarity
from cellfm_torch.perturbation.chem.scores import median_distance, squared_distances

Floats = NDArray[np.float64]

AMPLITUDES = (0.25, 1.0, 4.0, 16.0)
"""Variance of steps, over the mean square of those seen."""
OWN = (0.0, 0.3, 1.0, 10.0)
"""Variance of what a compound does of its own, over that of what all do."""
DECADES = (0.5, 1.5)
"""Of dose, over which an effect stays alike."""
LOCAL = (0.0, 0.5, 0.9)
"""Share of an effect that depends on the context."""
REACHES = (0.5, 1.0, 2.0)
"""Distance of contexts over which that share stays alike, in median distances."""

MOST_CONDITIONS = 400
"""By which a kernel is chosen; the time that takes grows with the cube of their number."""


@dataclass(frozen=True)
class Conditions:
    """What cells were treated with, in numbers.

    Attributes
    ----------
    compounds : (M, F)
    doses : (M,)
        In units of a middle dose.
    contexts : (M, P)
        Mean of the control cells of the context.
    """

    compounds: NDArray[np.float32]
    doses: Floats
    contexts: Floats

    def at(self, rows: Iterable[int]) -> Conditions:
        """Return some of them."""
        picked = np.asarray(list(rows), dtype=np.int64)
        return Conditions(*(getattr(self, field.name)[picked] for field in fields(self)))


def saturation(doses: Floats) -> Floats:
    """Return the share of the full effect that a dose is expected to have, in units of a middle dose."""
    return doses / (1 + doses)


@dataclass(frozen=True)
class Shift:
    """Mean step of cells by condition.

    Attributes
    ----------
    seen : Conditions
        M, of training.
    solved : (M, P)
        Targets through the inverse of their covariance.
    amplitude, own, decades, local, reach : float
        Of the kernel, see :data:`AMPLITUDES` and below; amplitude and reach in the units of steps and coordinates.
    """

    seen: Conditions
    solved: Floats
    amplitude: float
    own: float
    decades: float
    local: float
    reach: float

    @classmethod
    def fit(cls, seen: Conditions, steps: Floats, noise: Floats) -> Shift:
        """Fit to mean steps (M, P), whose variances through few cells are `noise` (M,).

        The kernel is the one that predicts left-out steps best: single conditions, all of a compound, and all of a
        context.
        """
        size, unit = float((steps**2).mean()), _context_unit(seen.contexts)
        rows = some_compounds(seen)
        few, of_few, its_noise = seen.at(rows), steps[rows], noise[rows]
        groups = left_out(few)
        least, best = np.inf, None
        for share, own, decades, (local, reach) in product(AMPLITUDES, OWN, DECADES, _contexts(seen)):
            amplitude = max(share * size, 1e-12)
            kernel = cls(few, np.zeros(0), amplitude, own, decades, local, reach * unit)
            inverse = np.asarray(np.linalg.inv(kernel._noisy(its_noise)), dtype=np.float64)
            error = sum(_left_out_error(inverse, inverse @ of_few, grouping) for grouping in groups)
            if error < least:
                least, best = error, kernel
        assert best is not None
        best = replace(best, seen=seen)
        solved = np.asarray(np.linalg.solve(best._noisy(noise), steps), dtype=np.float64)
        return replace(best, solved=solved)

    def _noisy(self, noise: Floats) -> Floats:
        """Return the covariance of what was seen, (M, M)."""
        return self.covariance(self.seen) + np.diag(np.maximum(noise, 1e-6 * self.amplitude))

    def covariance(self, asked: Conditions) -> Floats:
        """Return the prior covariance of steps, (Q, M)."""
        seen = self.seen
        gates = saturation(asked.doses)[:, None] * saturation(seen.doses)[None]
        decades = np.log10(np.maximum(asked.doses, 1e-12))[:, None] - np.log10(np.maximum(seen.doses, 1e-12))[None]
        alike = similarity(asked.compounds, seen.compounds) * np.exp(-0.5 * (decades / self.decades) ** 2)
        apart = squared_distances(asked.contexts, seen.contexts)
        context = 1 - self.local + self.local * np.exp(-0.5 * apart / self.reach**2)
        return self.amplitude * gates * context * (1 + self.own * alike)

    def steps(self, asked: Conditions) -> Floats:
        """Return the mean step of each condition, (Q, P)."""
        return self.covariance(asked) @ self.solved


def _context_unit(contexts: Floats) -> float:
    different = np.unique(contexts.round(9), axis=0)
    if len(different) < 2:
        return 1.0
    return median_distance(different)


def _contexts(seen: Conditions) -> list[tuple[float, float]]:
    """Return the ways of contexts to matter, share and reach; one where there are not three to learn it from."""
    if len(np.unique(seen.contexts.round(9), axis=0)) < 3:
        return [(LOCAL[1], REACHES[1])]
    return [(0.0, 1.0), *product(LOCAL[1:], REACHES)]


def some_compounds(seen: Conditions, most: int = MOST_CONDITIONS) -> NDArray[np.int64]:
    """Return conditions to choose a kernel by, ascending: all, or those of some compounds where there are many."""
    if len(seen.doses) <= most:
        return np.arange(len(seen.doses))
    codes = np.unique(seen.compounds, axis=0, return_inverse=True)[1].ravel()
    order = np.random.default_rng(0).permutation(codes.max() + 1)
    sizes = np.cumsum(np.bincount(codes)[order])
    return np.flatnonzero(np.isin(codes, order[: max(2, int((sizes <= most).sum()))]))


def left_out(seen: Conditions) -> list[list[NDArray[np.int64]]]:
    """Return groupings of conditions, each into groups that are left out together: alone, by compound, by context."""
    number = len(seen.doses)
    keys: list[NDArray[Any]] = [np.arange(number)[:, None], seen.compounds, seen.contexts.round(9)]
    found = []
    for key in keys:
        codes = np.unique(key, axis=0, return_inverse=True)[1].ravel()
        if codes.max() > 0:
            found.append([np.flatnonzero(codes == code) for code in range(codes.max() + 1)])
    return found


def _left_out_error(inverse: Floats, solved: Floats, groups: list[NDArray[np.int64]]) -> float:
    """Return the mean squared error of steps predicted from those of all other groups (Rasmussen, Williams 5.4.2)."""
    if len(groups) == len(solved):
        return float(np.mean((solved / np.diag(inverse)[:, None]) ** 2))
    errors = [np.linalg.solve(inverse[np.ix_(g, g)], solved[g]) for g in groups]
    return float(np.mean(np.concatenate(errors) ** 2))
