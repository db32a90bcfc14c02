"""Which cells are of no known type: those that are less certain than all but a few held-out reference cells.

Shapes: n held-out cells of known types, m cells asked about, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.errors import UserError

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Rejection:
    """A calibrated threshold of the largest probability.

    Attributes
    ----------
    threshold
        Cells whose largest probability is lower are `unknown`.
    share
        Share of known cells that may be rejected.
    false_rejections
        Share of held-out known cells that were rejected by a threshold which had not seen them.
    cells
        n, held-out cells it was calibrated on; with 0 nothing is rejected.
    """

    threshold: float
    share: float
    false_rejections: float
    cells: int

    @classmethod
    def calibrate(cls, probabilities: Floats, *, share: float = 0.05, seed: int = 0) -> Rejection:
        """Choose the threshold.

        Parameters
        ----------
        probabilities : (n, C)
            Of held-out cells of known types, by a model that has not seen them.
        share
            Share of new cells of known types that may be rejected, on average over such calibrations (split conformal
            prediction, arXiv 2107.07511). Fewer than ``1 / share - 1`` held-out cells cannot tell, and reject none.
        seed
            Of the halves: each half's threshold is tried on the other half for `false_rejections`.

        Raises
        ------
        UserError
            If the share is none.
        """
        if not 0 <= share < 1:
            raise UserError(f"reject={share}: must be a share of the known cells, at least 0 and below 1")
        scores = np.asarray(probabilities).max(1) if len(probabilities) else np.zeros(0)
        order = np.random.default_rng(seed).permutation(len(scores))
        halves = scores[order[::2]], scores[order[1::2]]
        rejected = sum(int((b < _threshold(a, share)).sum()) for a, b in (halves, halves[::-1]))
        measured = rejected / len(scores) if len(scores) else math.nan
        return cls(_threshold(scores, share), share, measured, len(scores))

    def unknown(self, probabilities: Floats) -> NDArray[np.bool_]:
        """Return which cells are rejected, (m,); those without probabilities (NaN) are."""
        return ~(np.asarray(probabilities).max(1, initial=-np.inf) >= self.threshold)


def _threshold(scores: NDArray[np.float64], share: float) -> float:
    """Return the k-th smallest of n scores, which a new one of their kind is below in k of n + 1 cases."""
    k = math.floor(share * (len(scores) + 1))
    return float(np.sort(scores)[k - 1]) if k else 0.0
