"""How near predicted effects of perturbations are to the measured ones, condition by condition.

What a trivial prediction reaches is fixed by the definitions: "no change" has Pearson 0, direction 0.5 and, over all
conditions, a mean discrimination of 0.5.

Shapes: M conditions, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.errors import UserError
from cellfm_torch.perturbation.gene.effects import Effects, condition_name
from cellfm_torch.perturbation.gene.splits import GROUPS

Floats = NDArray[np.float64]

METRICS = ("mse", "mse_top20", "pearson_delta", "pearson_delta_top20", "direction", "discrimination")
COMPARED = (
    *("group", "metric", "better", "mean", "baseline", "baseline_mean", "gain", "gain_sd"),
    *("seeds_better", "seeds_worse", "seeds"),
)
"""Columns of :func:`compare`."""

LESS_IS_BETTER = frozenset({"mse", "mse_top20"})

STILL = 1e-9
"""Differences of log1p(CP10K) up to this are no change: rounding, far below what a cell can show."""


def condition_scores(predicted: Any, truth: Effects, *, groups: Sequence[str] | None = None) -> pd.DataFrame:
    """Score predicted mean expression.

    The columns, of each condition:

    - ``mse``, ``mse_top20``: mean squared error of the mean expression, all genes and the 20 most differentially
      expressed (`Effects.marked`).
    - ``pearson_delta``, ``pearson_delta_top20``: correlation over genes of predicted and true difference from control.
      0 where the prediction is constant, since it says nothing of which genes move and a missing number would leave the
      condition out of the mean; NaN where the truth is constant, since there is nothing to find.
    - ``direction``: share of the 20 genes that move the right way. No change counts a half, as a coin would. Genes that
      do not move in truth are left out; NaN if none does.
    - ``discrimination``: see `discrimination`.

    Parameters
    ----------
    predicted : (M, G)
        Mean log1p(CP10K), the conditions and genes of `truth`.
    truth
        What was measured.
    groups : M, optional
        Group of each condition: discrimination is then among those of one group, so that "no change" has 0.5 in each.
        Otherwise weak effects, such as those of singles, are nearest to it and have more, strong ones less.

    Returns
    -------
    A row per condition, in its order: ``condition`` and `METRICS`.

    Raises
    ------
    UserError
        If a prediction is not finite.
    ValueError
        If the shape is not that of the truth.
    """
    values = _checked(predicted, truth)
    delta, true = values - truth.control, truth.delta
    rows = np.arange(len(values))[:, None]
    top, top_true = delta[rows, truth.marked], true[rows, truth.marked]
    found = np.empty(len(values))
    of = np.array([""] * len(values) if groups is None else list(groups), dtype=object)
    for group in dict.fromkeys(of):
        inside = np.flatnonzero(of == group)
        found[inside] = discrimination(values[inside], truth.of([truth.conditions[i] for i in inside]))
    return pd.DataFrame(
        {
            "condition": [condition_name(condition) for condition in truth.conditions],
            "mse": _mean((delta - true) ** 2),
            "mse_top20": _mean((top - top_true) ** 2),
            "pearson_delta": pearson(delta, true),
            "pearson_delta_top20": pearson(top, top_true),
            "direction": _direction(top, top_true),
            "discrimination": found,
        }
    )


def pearson(predicted: Floats, true: Floats) -> Floats:
    """Return the correlation of each row: 0 where the prediction is constant, NaN where the truth is, (M,)."""
    x = predicted - predicted.mean(1, keepdims=True)
    y = true - true.mean(1, keepdims=True)
    size, true_size = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    limit = STILL * np.sqrt(max(x.shape[1], 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(size > limit, (x * y).sum(1) / (size * true_size), 0.0)
    return np.where(true_size > limit, np.clip(found, -1, 1), np.nan)


def discrimination(predicted: Any, truth: Effects) -> Floats:
    """Return the perturbation discrimination score of each condition, (M,).

    All true profiles are ranked by their L1 distance to the predicted one, without the genes that any of the conditions
    perturbs, whose own fall would give it away. The score is 1 - rank / (M - 1), rank 0 the nearest: 1 where the true
    one is nearest, 0 where it is farthest; equal distances share their ranks, so that a prediction that is the same for
    all has a mean of 0.5 exactly. NaN for a single condition. The rank is that of PerturBench (Wu et al. 2024, arXiv
    2408.10609), the distance that of the Virtual Cell Challenge (Roohani et al. 2025, Cell 188, 3370). The latter's
    cell-eval leaves out the gene of this condition alone and divides by M: (M - 1) / M times ours plus 1 / M.
    """
    values = _checked(predicted, truth)
    number = len(values)
    if number < 2:
        return np.full(number, np.nan)
    perturbed = {gene for condition in truth.conditions for gene in condition}
    kept = np.array([gene not in perturbed for gene in truth.genes], dtype=bool)
    values, true = values[:, kept], truth.mean[:, kept]
    found = np.empty(number)
    for i, profile in enumerate(values):
        distance = np.abs(true - profile).sum(1)
        margin = 1e-12 * (1 + distance[i])  # sums of the same numbers may differ by rounding
        nearer = (distance < distance[i] - margin).sum()
        equal = (np.abs(distance - distance[i]) <= margin).sum() - 1
        found[i] = 1 - (nearer + equal / 2) / (number - 1)
    return found


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and spread over seeds by model and group.

    Parameters
    ----------
    table
        Rows of `condition_scores` with ``model``, ``seed`` and ``group``.

    Returns
    -------
    ``model``, ``group``, ``metric``, ``mean`` and ``sd`` over seeds of the mean over conditions (``sd`` NaN for one
    seed), ``seeds``, ``conditions`` (mean number per seed); the groups of GEARS come first, in their order.
    """
    long = _by_group(table).melt(["model", "seed", "group", "condition"], list(METRICS), "metric", "value")
    keys = ["model", "group", "metric"]
    by_seed = long.groupby([*keys, "seed"], sort=False)["value"].agg(["mean", "size"]).reset_index()
    grouped = by_seed.groupby(keys, sort=False)
    return grouped.agg(
        mean=("mean", "mean"), sd=("mean", "std"), seeds=("seed", "size"), conditions=("size", "mean")
    ).reset_index()


def compare(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return how a model stands beside the best of the others, seed by seed on the same conditions.

    Parameters
    ----------
    table
        As of `summarise`.
    model
        Which of its models is compared.

    Returns
    -------
    By ``group`` and ``metric``: ``better`` (``"less"`` or ``"more"``), the model's ``mean``, the ``baseline`` that is
    best on average over seeds and its ``baseline_mean``, the mean ``gain`` (above 0 where the model is better) and its
    ``gain_sd`` over seeds (NaN for one), ``seeds_better`` and ``seeds_worse`` of
    ``seeds``.

    Raises
    ------
    ValueError
        If the model or any other is missing.
    """
    models = list(dict.fromkeys(table["model"]))
    if model not in models or len(models) < 2:
        raise ValueError(f"nothing to compare '{model}' with among {models}")
    rows = []
    for group, part in _by_group(table).groupby("group", sort=False):
        for metric in METRICS:
            seeds = part.pivot_table(index="seed", columns="model", values=metric, dropna=False, observed=True)
            sign = -1.0 if metric in LESS_IS_BETTER else 1.0
            means = sign * seeds.drop(columns=model).mean()
            if means.isna().all() or seeds[model].isna().all():
                continue
            best = str(means.idxmax())
            gain = (sign * (seeds[model] - seeds[best])).dropna()
            rows.append(
                {
                    "group": group,
                    "metric": metric,
                    "better": "less" if sign < 0 else "more",
                    "mean": float(seeds[model].mean()),
                    "baseline": best,
                    "baseline_mean": float(seeds[best].mean()),
                    "gain": float(gain.mean()),
                    "gain_sd": float(gain.std()),
                    "seeds_better": int((gain > 0).sum()),
                    "seeds_worse": int((gain < 0).sum()),
                    "seeds": len(gain),
                }
            )
    return pd.DataFrame(rows, columns=list(COMPARED))


def _by_group(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows by group, in the order of `GROUPS`."""
    order = {group: i for i, group in enumerate(GROUPS)}
    return table.sort_values("group", key=lambda group: group.map(order).fillna(len(order)), kind="stable")


def _direction(predicted: Floats, true: Floats) -> Floats:
    """Return the share of genes that move the right way, no change a half, (M,)."""
    moves = np.abs(true) > STILL
    right = np.where(np.abs(predicted) <= STILL, 0.5, np.sign(predicted) == np.sign(true))
    number = moves.sum(1)
    return np.where(number > 0, (right * moves).sum(1) / np.maximum(number, 1), np.nan)


def _mean(values: Floats) -> Floats:
    """Return the mean of each row; NaN for rows of nothing."""
    return values.mean(1) if values.shape[1] else np.full(len(values), np.nan)


def _checked(predicted: Any, truth: Effects) -> Floats:
    values = np.asarray(predicted, dtype=np.float64)
    if values.shape != truth.mean.shape:
        raise ValueError(f"predictions are {values.shape}, measured are {truth.mean.shape} (conditions, genes)")
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad):
        name = condition_name(truth.conditions[int(bad[0])])
        raise UserError(f"the prediction of {name} is not finite: train again with a lower learning rate")
    return values
