"""How good predicted functions of genes are.

Shapes: m genes, T terms (1 for two classes).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

METRICS = {"accuracy": "accuracy", "macro_f1": "macro F1", "auroc": "AUROC", "aupr": "AUPR", "fmax": "Fmax"}
"""Columns, and what people call them; of terms F1, AUROC and AUPR are means over terms."""

THRESHOLDS = np.arange(0.0, 1.001, 0.01)


def auroc(target: Bools, score: Floats) -> float:
    """Return the area under the ROC curve: how often a positive is above a negative; NaN without one of either."""
    from scipy.stats import rankdata

    positives = int(target.sum())
    negatives = len(target) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[target].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def aupr(target: Bools, score: Floats) -> float:
    """Return the average precision; NaN without a positive. A constant score gives the share of positives."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(target, score)) if target.any() else float("nan")


def f1(target: Bools, given: Bools) -> float:
    """Return F1 of one class, 0 where it neither occurs nor is given."""
    both = target.sum() + given.sum()
    return float(2 * (target & given).sum() / both) if both else 0.0


def fmax(targets: Bools, probabilities: Floats) -> float:
    """Return CAFA's gene-centred Fmax (doi 10.1038/nmeth.2340).

    For each threshold, precision is the mean over genes that are given a term at all, recall the mean over all genes
    that have one; Fmax is the highest harmonic mean of the two. Probabilities of classifiers whose terms are balanced
    are too high for rare terms, which costs them Fmax, but not AUROC or AUPR.
    """
    having = targets.any(1)
    targets, probabilities = targets[having], probabilities[having]
    best = 0.0
    for threshold in THRESHOLDS:
        given = probabilities >= threshold
        number, right = given.sum(1), (given & targets).sum(1)
        if not number.any():
            break
        precision = float((right[number > 0] / number[number > 0]).mean())
        recall = float((right / targets.sum(1)).mean())
        if precision + recall > 0:
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def function_scores(targets: Bools, probabilities: Floats) -> dict[str, float]:
    """Return the figures of a fold: those of :data:`METRICS`, `fmax` for several terms only.

    Accuracy is over genes, of several terms over genes and terms. Classes are given from a probability of 0.5 on.
    """
    given = probabilities >= 0.5
    columns = list(zip(targets.T, given.T, probabilities.T, strict=True))
    if len(columns) == 1:
        (target, said, score) = columns[0]
        f1s = [f1(target, said), f1(~target, ~said)]
    else:
        f1s = [f1(target, said) for target, said, _ in columns]
    return {
        "accuracy": float((given == targets).mean()),
        "macro_f1": float(np.mean(f1s)),
        "auroc": _mean([auroc(target, score) for target, _, score in columns]),
        "aupr": _mean([aupr(target, score) for target, _, score in columns]),
        **({"fmax": fmax(targets, probabilities)} if len(columns) > 1 else {}),
    }


def term_scores(targets: Bools, probabilities: Floats) -> pd.DataFrame:
    """Return ``auroc``, ``aupr`` and ``f1`` of each term, T rows."""
    rows = [
        {"auroc": auroc(target, score), "aupr": aupr(target, score), "f1": f1(target, score >= 0.5)}
        for target, score in zip(targets.T, probabilities.T, strict=True)
    ]
    return pd.DataFrame(rows)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
