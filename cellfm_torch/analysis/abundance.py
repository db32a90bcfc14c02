"""Neighbourhoods of cells in which a condition is enriched, tested over donors.

The plan is Milo's (Dann et al., Nat. Biotechnol. 40, 2022): neighbourhoods around sampled cells
(:mod:`~cellfm_torch.analysis.neighbourhoods`), counts per sample, false discovery rates weighted by density. The test
is a moderated t on log odds (Smyth 2004), paired where donors were seen in both conditions, whose variance is never
below that of counting.

Shapes: B cells, H neighbourhoods, S samples (a donor in a condition), D donors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy import special, stats

from cellfm_torch.analysis.markers import benjamini_hochberg
from cellfm_torch.analysis.neighbourhoods import Neighbourhoods
from cellfm_torch.errors import UserError

Floats = NDArray[np.float64]
Strings = NDArray[Any]
PSEUDOCOUNT = 0.5


@dataclass(frozen=True)
class Design:
    """Which samples are compared, and how.

    Attributes
    ----------
    paired
        Donors were seen in both conditions, each is compared with itself.
    case, control : (D,) or (D1,), (D2,)
        Samples (codes) of the two conditions; with `paired`, in the same order of donors.
    donors
        Names of the donors that take part.
    left_out
        Donors seen in one condition only while others were seen in both.
    sample_of_cell : (B,)
        Code of each cell's sample, -1 for cells that take no part.
    """

    paired: bool
    case: NDArray[np.int64]
    control: NDArray[np.int64]
    donors: tuple[str, ...]
    left_out: tuple[str, ...]
    sample_of_cell: NDArray[np.int64]

    @property
    def freedom(self) -> int:
        """Degrees of freedom that the donors leave."""
        return len(self.case) - 1 if self.paired else len(self.case) + len(self.control) - 2


def design(conditions: Strings, donors: Strings, *, case: str, control: str) -> Design:
    """Pair donors where they can be paired.

    Parameters
    ----------
    conditions, donors : (B,)
    case, control
        The two conditions; cells of others take no part.

    Raises
    ------
    UserError
        If there are too few donors to test over.
    """
    taking_part = np.isin(conditions.astype(str), [case, control])
    seen = {kind: sorted(set(donors[conditions == kind])) for kind in (case, control)}
    both = sorted(set(seen[case]) & set(seen[control]))
    everyone = sorted(set(seen[case]) | set(seen[control]))
    if len(everyone) < 2:
        raise UserError(
            f"all cells are of one donor ('{everyone[0]}'): a condition is tested over donors, two at least are needed"
        )
    paired = len(both) >= 2
    if not paired and min(len(names) for names in seen.values()) < 2:
        counts = " and ".join(f"{len(names)} with {kind}" for kind, names in seen.items())
        raise UserError(f"too few donors: {counts}; two seen in both conditions, or two in each, are needed")
    chosen = {kind: both if paired else seen[kind] for kind in (case, control)}
    codes = {(kind, name): i for i, (kind, name) in enumerate((k, n) for k in (case, control) for n in chosen[k])}
    samples = np.array([codes.get(pair, -1) for pair in zip(conditions, donors, strict=True)], dtype=np.int64)
    samples[~taking_part] = -1
    first = len(chosen[case])
    names = tuple(both) if paired else tuple(everyone)
    left_out = tuple(name for name in everyone if name not in names)
    return Design(paired, np.arange(first), np.arange(first, len(codes)), names, left_out, samples)


def sample_counts(areas: Neighbourhoods, plan: Design) -> tuple[Floats, Floats]:
    """Return the cells of each sample in each neighbourhood (H, S), and in all (S,)."""
    codes = plan.sample_of_cell
    number = len(plan.case) + len(plan.control)
    cells = np.flatnonzero(codes >= 0)
    one_hot = sp.csr_matrix((np.ones(len(cells)), (cells, codes[cells])), shape=(len(codes), number))
    return np.asarray((areas.members @ one_hot).toarray()), np.bincount(codes[cells], minlength=number).astype(float)


def moderate(variance: Floats, freedom: int, *, most: float) -> tuple[float, float]:
    """Return what many variances have in common: (prior variance, its degrees of freedom, at most `most`).

    Moments of log variances under a scaled F distribution.
    """
    positive = variance[variance > 0]
    if len(positive) < 3:
        return float(positive.mean()) if len(positive) else 0.0, 0.0
    logs = np.log(positive) - special.digamma(freedom / 2) + np.log(freedom / 2)
    excess = logs.var(ddof=1) - special.polygamma(1, freedom / 2)
    prior = most if excess <= 0 else min(most, 2 * _inverse_trigamma(float(excess)))
    centre = logs.mean() + special.digamma(prior / 2) - np.log(prior / 2)
    return float(np.exp(centre)), float(prior)


def _inverse_trigamma(y: float) -> float:
    """Solve trigamma(x) = y for x > 0 by Newton's method on 1 / trigamma, which is nearly straight."""
    x = 0.5 + 1 / y
    for _ in range(50):
        value = float(special.polygamma(1, x))
        step = value * (1 - value / y) / float(special.polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x


def enrichment(areas: Neighbourhoods, plan: Design) -> pd.DataFrame:
    """Test each neighbourhood for a condition that is enriched in it.

    Returns
    -------
    DataFrame of H rows: ``cell`` (row of the cell in the middle), ``log2_odds`` (of a cell to lie here, case over
    control), ``t``, ``freedom``, ``p``, ``fdr`` (Benjamini-Hochberg, weighted by 1 / radius so that dense regions do
    not count more often), ``case_cells``, ``control_cells``.
    """
    counts, totals = sample_counts(areas, plan)
    inside, outside = counts + PSEUDOCOUNT, totals - counts + PSEUDOCOUNT
    odds = np.log(inside / outside)
    noise = 1 / inside + 1 / outside  # variance of a log odds by counting alone
    case, control, freedom = plan.case, plan.control, plan.freedom
    if plan.paired:
        each = odds[:, case] - odds[:, control]
        effect, variance = each.mean(1), each.var(1, ddof=1)
        spread = 1 / len(case)
        floor = (noise[:, case] + noise[:, control]).mean(1) * spread
    else:
        effect = odds[:, case].mean(1) - odds[:, control].mean(1)
        squares = [((odds[:, side] - odds[:, side].mean(1, keepdims=True)) ** 2).sum(1) for side in (case, control)]
        variance = (squares[0] + squares[1]) / freedom
        spread = 1 / len(case) + 1 / len(control)
        floor = noise[:, case].mean(1) / len(case) + noise[:, control].mean(1) / len(control)
    # Neighbourhoods overlap: no more of them are independent than fit side by side.
    side_by_side = max(1.0, areas.members.shape[1] / areas.members[0].nnz)
    prior, prior_freedom = moderate(variance, freedom, most=freedom * side_by_side)
    moderated = (prior_freedom * prior + freedom * variance) / (prior_freedom + freedom)
    t = effect / np.sqrt(np.maximum(moderated * spread, floor))
    p = 2 * stats.t.sf(np.abs(t), freedom + prior_freedom)
    weights = 1 / np.maximum(areas.radius, 1e-12)
    return pd.DataFrame(
        {
            "cell": areas.index,
            "log2_odds": effect / np.log(2),
            "t": t,
            "freedom": freedom + prior_freedom,
            "p": p,
            "fdr": benjamini_hochberg(p, weights),
            "case_cells": counts[:, case].sum(1).astype(int),
            "control_cells": counts[:, control].sum(1).astype(int),
        }
    )


def swapped(plan: Design) -> Design | None:
    """Return the same plan with case and control swapped in every other donor: a control that should find nothing.

    None where donors are not paired, or there are no two.
    """
    if not plan.paired:
        return None
    case, control = plan.case.copy(), plan.control.copy()
    case[1::2], control[1::2] = plan.control[1::2], plan.case[1::2]
    return Design(True, case, control, plan.donors, plan.left_out, plan.sample_of_cell)


def signed_share(areas: Neighbourhoods, table: pd.DataFrame, fdr: float) -> Floats:
    """Return for each cell the mean log2 odds of the significant neighbourhoods it lies in, 0 where it is in none."""
    hits = (table["fdr"] <= fdr).to_numpy()
    members = areas.members[hits]
    number = np.asarray(members.sum(0)).ravel()
    total = members.T @ table["log2_odds"].to_numpy()[hits]
    return np.asarray(total).ravel() / np.maximum(number, 1)
