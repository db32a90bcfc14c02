"""How well sensitive cells are told from resistant ones: AUROC and AUPR, with intervals by bootstrap.

Shapes: n cells, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]

RESAMPLES = 500
INTERVAL = (2.5, 97.5)


def auroc(truth: NDArray[np.bool_], score: Floats) -> float:
    """Return the chance that a sensitive cell scores more than a resistant one; NaN where one kind is missing."""
    ones, zeros = int(truth.sum()), int((~truth).sum())
    if not ones or not zeros:
        return float("nan")
    return float((rankdata(score)[truth].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def aupr(truth: NDArray[np.bool_], score: Floats) -> float:
    """Return the average precision, ties taken together; NaN where no cell is sensitive."""
    if not truth.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)
    hits, shown = np.cumsum(truth[order])[last], np.arange(1, len(score) + 1)[last]
    return float((np.diff(hits, prepend=0) * hits / shown).sum() / truth.sum())


def bootstrapped(
    truth: NDArray[np.bool_],
    answers: Mapping[str, Floats],
    *,
    ours: str,
    groups: NDArray[Any] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return scores of each answer with 95 % intervals.

    Parameters
    ----------
    truth : (n,)
        Sensitive.
    answers : dict of str to (n,)
        By method: higher for sensitive.
    ours
        Method whose gain over each other is given: ``gain`` of AUROC, ``gain_low``, ``gain_high``, on the same cells.
    groups : (n,), optional
        Drawn whole, such as donors; None: cells are drawn one by one.
    """
    rng = np.random.default_rng(seed)
    names, codes = (np.arange(len(truth)),) * 2 if groups is None else np.unique(groups, return_inverse=True)
    members = None if groups is None else [np.flatnonzero(codes == i) for i in range(len(names))]
    drawn: dict[str, list[tuple[float, float]]] = {name: [] for name in answers}
    for _ in range(RESAMPLES):
        picked = rng.integers(len(names), size=len(names))
        rows = picked if members is None else np.concatenate([members[i] for i in picked])
        if truth[rows].all() or not truth[rows].any():
            continue
        for name, score in answers.items():
            drawn[name].append((auroc(truth[rows], score[rows]), aupr(truth[rows], score[rows])))
    resampled = {name: np.array(values).reshape(-1, 2) for name, values in drawn.items()}
    table = []
    for name, score in answers.items():
        row: dict[str, Any] = {"method": name}
        for i, (metric, function) in enumerate((("auroc", auroc), ("aupr", aupr))):
            row[metric] = function(truth, score)
            row[f"{metric}_low"], row[f"{metric}_high"] = _interval(resampled[name][:, i])
        row["gain"] = auroc(truth, answers[ours]) - row["auroc"]
        row["gain_low"], row["gain_high"] = _interval(resampled[ours][:, 0] - resampled[name][:, 0])
        table.append(row)
    return pd.DataFrame(table)


def _interval(values: Floats) -> tuple[float, float]:
    if len(values) < 2:
        return float("nan"), float("nan")
    low, high = np.percentile(values, INTERVAL)
    return float(low), float(high)
