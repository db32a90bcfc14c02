"""From a state of cells to another: which perturbation leads there, among those whose effect is predicted.

Shapes: K candidates, M tested conditions, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.errors import UserError
from cellfm_torch.perturbation.gene.effects import Condition, Effects, condition_name
from cellfm_torch.perturbation.gene.scores import STILL, pearson

Floats = NDArray[np.float64]

RULES = ("pearson", "mse")
"""By which candidates are ranked. Pearson is the default: the squared error prefers whatever is predicted to do little,
which is near to every state, and a state of which only a part of the cells was moved is as far off for the right gene
as for a weak one; the correlation asks which genes move, and how far in relation to each other."""

TOP = (1, 5, 10)


def rank_candidates(
    predicted: Any,
    candidates: Sequence[Condition],
    start: Any,
    target: Any,
    *,
    by: str = "pearson",
    genes: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return candidates by how well their predicted effect leads from one state to another, best first.

    Parameters
    ----------
    predicted : (K, G)
        Mean log1p(CP10K) after each candidate, of cells that start in `start`.
    candidates : K
        What they are.
    start, target : (G,)
        Mean log1p(CP10K) of the two states.
    by
        One of `RULES`; equals by the other, then in the order of the candidates.
    genes : G, optional
        Symbols: those that a candidate perturbs are left out, for all candidates. For tests, in which the fall of the
        perturbed gene itself would give the answer away; a state of other origin has no such trace.

    Returns
    -------
    ``rank`` from 1, ``condition``, ``pearson`` of predicted and wanted difference from `start` (0 for a candidate that
    moves nothing), ``mse`` between predicted and wanted state.

    Raises
    ------
    UserError
        If the two states are equal, there is no candidate, or the rule is unknown.
    """
    if by not in RULES:
        raise UserError(f"by={by}: choose {' or '.join(RULES)}")
    if not candidates:
        raise UserError("reverse perturbation: there is no candidate")
    wanted, moved = _differences(predicted, start, target)
    if genes is not None:
        kept = _unperturbed(genes, candidates)
        wanted, moved = wanted[kept], moved[:, kept]
    if not (np.abs(wanted) > STILL).any():
        raise UserError("reverse perturbation: the two states are equal, no perturbation leads from one to the other")
    correlation = np.nan_to_num(pearson(moved, np.tile(wanted, (len(moved), 1))))
    error = ((moved - wanted) ** 2).mean(1)
    order = np.lexsort((error, -correlation) if by == "pearson" else (-correlation, error))
    return pd.DataFrame(
        {
            "rank": np.arange(1, len(order) + 1),
            "condition": [condition_name(candidates[int(i)]) for i in order],
            "pearson": correlation[order],
            "mse": error[order],
        }
    )


def hit_rates(
    predicted: Any,
    truth: Effects,
    *,
    candidates: Sequence[Condition] | None = None,
    ks: Sequence[int] = TOP,
    by: str = "pearson",
) -> pd.DataFrame:
    """Return how often the perturbation that was made is among the best-ranked candidates for what it did.

    Each tested condition is taken for an unknown one: the state before is control, the state after what was measured.
    The genes that any candidate perturbs are left out. Candidates whose predictions are alike share their ranks: what
    counts is how often a hit is had when their order is drawn, so that "no change" has what chance has.

    Parameters
    ----------
    predicted : (K, G)
        Mean log1p(CP10K) of each candidate.
    truth
        Measured effects of the tested conditions.
    candidates : K, optional
        None: the tested conditions, in their order. All tested conditions must be among them.
    ks
        How many of the best count.

    Returns
    -------
    A row for each k: ``k``; ``hits``, share of conditions that are among their k best; ``chance``, what a random order
    reaches; ``gene_hits`` and ``gene_chance``, the same if a candidate with one of the condition's genes is enough;
    ``conditions`` and ``candidates``, their numbers.

    Raises
    ------
    UserError
        If nothing is tested.
    ValueError
        If a tested condition is no candidate.
    """
    among = tuple(truth.conditions if candidates is None else candidates)
    tested = truth.conditions
    if not tested:
        raise UserError("reverse perturbation: no condition is tested")
    missing = [condition_name(condition) for condition in tested if condition not in among]
    if missing:
        raise ValueError(f"no candidates: {', '.join(missing)}")
    row = {condition_name(condition): i for i, condition in enumerate(among)}
    hits, gene_hits = np.zeros((2, len(tested), len(ks)))
    akin = np.zeros(len(tested), dtype=np.int64)
    for i, (condition, target) in enumerate(zip(tested, truth.mean, strict=True)):
        ranked = rank_candidates(predicted, among, truth.control, target, by=by, genes=truth.genes)
        order = [among[row[name]] for name in ranked["condition"]]
        # Candidates of the same place: what is predicted alike to twelve digits.
        place = np.unique(ranked[["pearson", "mse"]].round(12), axis=0, return_inverse=True)[1].ravel()
        own = np.array([other == condition for other in order])
        shares = np.array([bool(set(other) & set(condition)) for other in order])
        hits[i], gene_hits[i] = ([_expected(right, place, k) for k in ks] for right in (own, shares))
        akin[i] = shares.sum()
    number = len(among)
    return pd.DataFrame(
        {
            "k": list(ks),
            "hits": hits.mean(0),
            "chance": [min(k / number, 1.0) for k in ks],
            "gene_hits": gene_hits.mean(0),
            "gene_chance": [float(np.mean([_chance(int(n), number, k) for n in akin])) for k in ks],
            "conditions": len(tested),
            "candidates": number,
        }
    )


def _expected(right: NDArray[np.bool_], place: NDArray[np.int64], k: int) -> float:
    """Return the probability of a right one among the first k, where those of the same place are in random order."""
    first = int(right.argmax())
    alike = place == place[first]
    before = int(alike.argmax())
    if k <= before:
        return 0.0
    return _chance(int((right & alike).sum()), int(alike.sum()), k - before)


def _chance(right: int, number: int, k: int) -> float:
    """Return the probability that one of some right candidates is among k drawn of a number."""
    return 1 - comb(number - right, min(k, number)) / comb(number, min(k, number))


def _differences(predicted: Any, start: Any, target: Any) -> tuple[Floats, Floats]:
    """Return the wanted (G,) and the predicted (K, G) difference from the start."""
    before = np.asarray(start, dtype=np.float64)
    after, profiles = np.asarray(target, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if before.shape != after.shape or profiles.ndim != 2 or profiles.shape[1:] != before.shape:
        raise ValueError(f"states are {before.shape} and {after.shape}, predictions {profiles.shape}")
    return after - before, profiles - before


def _unperturbed(genes: Sequence[str], candidates: Sequence[Condition]) -> NDArray[np.bool_]:
    perturbed = {gene for condition in candidates for gene in condition}
    return np.array([gene not in perturbed for gene in genes], dtype=bool)
