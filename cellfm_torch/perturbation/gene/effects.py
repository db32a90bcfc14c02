"""Perturbations by name, and what each did to the mean expression of cells.

Shapes: M conditions, G genes that are read out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Condition = tuple[str, ...]
"""The perturbed genes in alphabetical order; ``()`` is control."""

CONTROL: Condition = ()
CONTROL_NAME = "ctrl"
MOST_MARKED = 20
"""Differentially expressed genes per condition that are scored on their own, as is usual (GEARS)."""


def condition_name(condition: Condition) -> str:
    """Return ``"ctrl"``, ``"KLF1"`` or ``"CEBPA+KLF1"``."""
    return "+".join(condition) or CONTROL_NAME


@dataclass(frozen=True)
class Effects:
    """Mean expression of perturbed and of control cells.

    Attributes
    ----------
    genes : tuple of str, G
        Symbols of the genes that are read out.
    conditions : tuple of Condition, M
        Without control.
    mean : (M, G) float64
        log1p(CP10K), mean over the cells of each condition.
    control : (G,) float64
        The same of control cells.
    marked : (M, 20) int64
        Genes that differ most from control, by absolute Welch's t, most first; fewer columns where G is small.
    cells : (M,) int64
        Cells of each condition.
    noise : (M, G) float64 or None
        Variance of `delta`, by the spread of cells: of perturbed and of control cells.
    """

    genes: tuple[str, ...]
    conditions: tuple[Condition, ...]
    mean: NDArray[np.float64]
    control: NDArray[np.float64]
    marked: NDArray[np.int64]
    cells: NDArray[np.int64]
    noise: NDArray[np.float64] | None = None

    @property
    def delta(self) -> NDArray[np.float64]:
        """Difference from control, (M, G)."""
        return self.mean - self.control

    def row(self, condition: Condition) -> int:
        """Return the row of a condition."""
        return self.conditions.index(condition)

    def of(self, conditions: Sequence[Condition]) -> Effects:
        """Return the same of some conditions, in their order."""
        rows = [self.row(condition) for condition in conditions]
        noise = None if self.noise is None else self.noise[rows]
        mean, marked, cells = self.mean[rows], self.marked[rows], self.cells[rows]
        return Effects(self.genes, tuple(conditions), mean, self.control, marked, cells, noise)
