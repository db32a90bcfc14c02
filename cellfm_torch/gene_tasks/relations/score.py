"""How well pairs of genes are told that share a gene set, by maps, co-expression and embeddings.

Shapes: M genes, S sets, E pairs (each once, M (M - 1) / 2 at most).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from cellfm_torch.data.gene_sets import GeneSets
from cellfm_torch.errors import UserError

Floats = NDArray[np.floating[Any]]


def share_a_set(sets: GeneSets) -> NDArray[np.bool_]:
    """Return which two genes are in one set, (M, M)."""
    member = sets.matrix().astype(np.float32)
    return np.asarray(member @ member.T > 0)


def score_pairs(
    relations: Mapping[str, Floats], sets: GeneSets, *, among: NDArray[np.bool_] | None = None
) -> pd.DataFrame:
    """Score symmetric relations against membership of a common gene set.

    Parameters
    ----------
    relations
        By name, (M, M) each; one that is not symmetric is averaged with its transpose. NaN counts as the least.
    sets
        Over the M genes. Only pairs of genes that are in some set are asked about: of others it is not known.
    among : (M, M), optional
        Pairs to ask about.

    Returns
    -------
    DataFrame, a row per relation: ``aupr`` (area under the precision-recall curve, average precision),
    ``aupr_ratio`` (over that of a random order), ``early_precision`` (among as many first pairs as there are true
    ones) and ``early_ratio``; ``pairs`` and ``true_pairs`` in ``attrs``.

    Raises
    ------
    UserError
        If the pairs are all or none in one set.
    """
    truth, known = share_a_set(sets), sets.matrix().any(1)
    asked = np.triu(np.outer(known, known), k=1)
    if among is not None:
        asked &= among | among.T
    true = truth[asked]
    if not true.any() or true.all():
        raise UserError(
            f"{sets.source}: of {true.size:,} pairs of its known genes {int(true.sum()):,} share a set; there must be "
            "some that do and some that do not: give other gene sets, or more genes"
        )
    prevalence, rows = float(true.mean()), {}
    for name, relation in relations.items():
        value = np.nan_to_num((relation + relation.T)[asked] / 2, nan=-np.inf, neginf=-1e30)
        aupr = float(average_precision_score(true, value))
        early = _early_precision(true, value)
        rows[name] = {
            "aupr": aupr,
            "aupr_ratio": aupr / prevalence,
            "early_precision": early,
            "early_ratio": early / prevalence,
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("relation")
    table.attrs |= {"pairs": int(true.size), "true_pairs": int(true.sum())}
    return table


def _early_precision(true: NDArray[np.bool_], value: Floats) -> float:
    """Return the share of true ones among as many first ones; of those that tie at the border, the expected share."""
    number = int(true.sum())
    border = np.partition(value, len(value) - number)[len(value) - number]
    above, tied = value > border, value == border
    left = number - int(above.sum())
    return float((true[above].sum() + true[tied].mean() * left) / number)
