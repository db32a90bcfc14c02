"""The space that cells move in: embeddings standardised, and reduced to their first principal components.

Shapes: n cells, E width of an embedding, P components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COMPONENTS = 64


@dataclass(frozen=True)
class Space:
    """Linear coordinates of embeddings; the first P components of training cells, in units of their spread.

    Attributes
    ----------
    mean, scale : (E,)
        Of each number of an embedding, over training cells.
    axes : (P, E)
        Orthonormal.
    unit : float
        Length that counts as one: the mean standard deviation along the axes.
    """

    mean: Floats
    scale: Floats
    axes: Floats
    unit: float

    @classmethod
    def fit(cls, embeddings: NDArray[np.floating], *, components: int = COMPONENTS) -> Space:
        """Fit to embeddings of training cells (n, E); P is less than `components` where they do not span as many."""
        x = np.asarray(embeddings, dtype=np.float64)
        mean, scale = x.mean(0), x.std(0)
        varies = scale > 1e-8 * max(1.0, float(np.abs(x).max(initial=0)))
        scale = np.where(varies, scale, 1.0)
        standard = (x - mean) / scale * varies
        values, vectors = np.linalg.eigh(standard.T @ standard / len(x))
        order = np.argsort(-values)[:components]
        kept = order[values[order] > 1e-6 * max(values.max(), 1e-12)]
        # The sign of an axis is arbitrary: its largest number is positive, so that machines agree.
        axes = vectors[:, kept].T
        axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
        return cls(mean, scale, axes, float(np.sqrt(values[kept].mean())) if len(kept) else 1.0)

    @property
    def width(self) -> int:
        """P."""
        return len(self.axes)

    def coordinates(self, embeddings: NDArray[np.floating]) -> Floats:
        """Return where cells are, (n, E) -> (n, P)."""
        return (np.asarray(embeddings, dtype=np.float64) - self.mean) / self.scale @ self.axes.T / self.unit

    def moved(self, embeddings: NDArray[np.floating], steps: Floats) -> Floats:
        """Return embeddings (n, E) of cells that went `steps` (n, P); what no axis sees of them stays as it is."""
        return np.asarray(embeddings, dtype=np.float64) + (steps * self.unit @ self.axes) * self.scale
