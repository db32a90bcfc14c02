"""How far cells move on the whole: a Gaussian process over compound, dose and context.

It knows how sure each mean is, costs nothing to train, and far from everything that it has seen it says the mean over
compounds, at a dose of zero nothing.

Shapes: M conditions, Q conditions asked about, F numbers of a compound, P coordinates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from cellfm_torch.perturbation.chem.compounds import similarity

Floats = NDArray[np.float64]

OWN = (0.1, 1.0, 10.0)
"""Variance of what a compound does of its own, over that of what all do."""
DECADES = (0.5, 1.5)
"""Of dose, over which an effect stays alike."""
REACHES = (0.5, 2.0)
"""Distance of contexts over which an effect stays alike, in median distances."""


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
    amplitude, own, decades, reach : float
        Variance of steps, and the rest of the kernel: see :data:`OWN`, :data:`DECADES`, :data:`REACHES`.
    """

    seen: Conditions
    solved: Floats
    amplitude: float
    own: float
    decades: float
    reach: float

    @classmethod
    def fit(cls, seen: Conditions, steps: Floats, noise: Floats) -> Shift:
        """Fit to mean steps (M, P), whose variances through few cells are `noise` (M,), by marginal likelihood."""
        best, chosen = -np.inf, None
        spread = _context_unit(seen.contexts)
        size = float((steps**2).mean())
        for own, decades, reach, share in product(OWN, DECADES, REACHES, (0.25, 1.0, 4.0, 16.0)):
            amplitude = max(share * size, 1e-12)
            kernel = cls(seen, np.zeros(0), amplitude, own, decades, reach * spread)
            covariance = kernel.covariance(seen) + np.diag(np.maximum(noise, 1e-6 * amplitude))
            factor = cho_factor(covariance, lower=True)
            solved = cho_solve(factor, steps)
            likelihood = -0.5 * (steps * solved).sum() - steps.shape[1] * np.log(np.diag(factor[0])).sum()
            if likelihood > best:
                best, chosen = likelihood, (solved, amplitude, own, decades, reach * spread)
        assert chosen is not None
        return cls(seen, *chosen)

    def covariance(self, asked: Conditions) -> Floats:
        """Return the prior covariance of steps, (Q, M)."""
        seen, reach = self.seen, 2 * self.reach**2
        gates = saturation(asked.doses)[:, None] * saturation(seen.doses)[None]
        decades = np.log10(np.maximum(asked.doses, 1e-12))[:, None] - np.log10(np.maximum(seen.doses, 1e-12))[None]
        apart = ((asked.contexts[:, None] - seen.contexts[None]) ** 2).sum(2)
        alike = similarity(asked.compounds, seen.compounds) * np.exp(-0.5 * (decades / self.decades) ** 2)
        # Contexts share half of every effect.
        context = 0.5 + 0.5 * np.exp(-apart / reach)
        return self.amplitude * gates * context * (1 + self.own * alike)

    def steps(self, asked: Conditions) -> Floats:
        """Return the mean step of each condition, (Q, P)."""
        return self.covariance(asked) @ self.solved


def _context_unit(contexts: Floats) -> float:
    different = np.unique(contexts.round(9), axis=0)
    if len(different) < 2:
        return 1.0
    apart = np.sqrt(((different[:, None] - different[None]) ** 2).sum(2))
    return float(np.median(apart[np.triu_indices(len(different), 1)]))
