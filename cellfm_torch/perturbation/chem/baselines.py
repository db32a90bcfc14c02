"""Answers that need no network: what any predictor must beat.

Shapes: G genes or coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.perturbation.chem.cells import Condition
from cellfm_torch.perturbation.chem.compounds import Compounds, similarity

Floats = NDArray[np.float64]

NO_CHANGE, MEAN_SHIFT, NEAREST = "no change", "mean shift", "nearest compound"


def baseline_steps(
    asked: Condition, train: Sequence[Condition], steps: Floats, compounds: Compounds
) -> dict[str, Floats]:
    """Return the step (G,) that each baseline predicts for a condition.

    No change; the mean step of training conditions (of the same compound where it was seen, else of all), at the dose
    that is nearest, in the same context where there is one; with SMILES, the step of the most similar compound.

    Parameters
    ----------
    asked
        A condition that is not among `train`.
    steps : (M, G)
        Of `train`.
    """
    same = [i for i, c in enumerate(train) if compounds.identity(c.drug) == compounds.identity(asked.drug)]
    found = {
        NO_CHANGE: np.zeros(steps.shape[1]),
        MEAN_SHIFT: _mean(asked, train, steps, same or range(len(train)), compounds),
    }
    if compounds.by_structure and not same:
        drugs = sorted({c.drug for c in train})
        features = np.stack([compounds.features[name] for name in drugs])
        alike = similarity(compounds.features[asked.drug][None], features)[0]
        nearest = drugs[int(alike.argmax())]
        rows = [i for i, c in enumerate(train) if c.drug == nearest]
        found[NEAREST] = _mean(asked, train, steps, rows, compounds)
    return found


def _mean(
    asked: Condition, train: Sequence[Condition], steps: Floats, rows: Sequence[int] | range, compounds: Compounds
) -> Floats:
    """Return the mean over compounds and contexts of the step at the nearest dose of each."""
    in_context = [i for i in rows if train[i].context == asked.context]
    groups: dict[tuple[str, str], list[int]] = {}
    for i in in_context or rows:
        groups.setdefault((compounds.identity(train[i].drug), train[i].context), []).append(i)
    chosen = [min(group, key=lambda i: abs(np.log(train[i].dose / asked.dose))) for group in groups.values()]
    return np.asarray(steps[chosen].mean(0))
