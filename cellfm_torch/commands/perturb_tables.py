"""What `cellfm perturb train` shows and keeps of an evaluation.

Shapes: M tested conditions, R genes that are read out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from rich.table import Table

from cellfm_torch.perturbation.gene.effects import condition_name
from cellfm_torch.perturbation.gene.scores import COMPARED, compare
from cellfm_torch.report.perturbation import render_perturbation

if TYPE_CHECKING:
    from cellfm_torch.perturbation.gene.evaluate import Evaluation
    from cellfm_torch.perturbation.gene.screen import GenePerturbation

COLUMNS = {
    "mse": "MSE",
    "mse_top20": "MSE\ntop 20",
    "pearson_delta": "Pearson",
    "pearson_delta_top20": "Pearson\ntop 20",
    "direction": "direction",
    "discrimination": "discrimi-\nnation",
}
EXAMPLES = 6
"""Test conditions that the page draws."""


def score_table(summary: pd.DataFrame, group: str, *, several: bool) -> Table:
    """Return the scores of a group of test conditions: mean, and standard deviation over seeds where there are some."""
    part = summary[summary["group"] == group]
    number = part["conditions"].iloc[0]
    title = f"{group} ({number:g} conditions" + (" a seed; mean ± sd over seeds)" if several else ")")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for model, rows in part.groupby("model", sort=False):
        by_metric = rows.set_index("metric")
        cells = [_figure(by_metric, metric, several=several) for metric in COLUMNS]
        table.add_row(str(model), *cells)
    return table


def _figure(rows: pd.DataFrame, metric: str, *, several: bool) -> str:
    if metric not in rows.index or math.isnan(rows.loc[metric, "mean"]):
        return "-"
    digits = 4 if metric == "mse" else 3
    mean, deviation = rows.loc[metric, "mean"], rows.loc[metric, "sd"]
    if not several or math.isnan(deviation):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f}±{deviation:.{digits}f}".replace("±0.", "±.")


def reverse_table(reverse: pd.DataFrame) -> Table:
    """Return how often the perturbation that was made is among the best-ranked ones for what it did."""
    number = reverse["candidates"].mean()
    title = f"Reverse perturbation: right one in the first k of {number:g}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0), min_width=60)
    table.add_column("", no_wrap=True)
    means = reverse.groupby(["model", "k"], sort=False)[["hits", "chance"]].mean()
    ks = list(dict.fromkeys(reverse["k"]))
    for k in ks:
        table.add_column(f"k={k}", justify="right")
    for model in dict.fromkeys(reverse["model"]):
        table.add_row(model, *(f"{means.loc[(model, k), 'hits']:.2f}" for k in ks))
    table.add_row("chance", *(f"{means.loc[(reverse['model'].iloc[0], k), 'chance']:.2f}" for k in ks))
    return table


def effects_table(found: Evaluation, model: str) -> anndata.AnnData:
    """Return predicted and measured effects of the test conditions of all seeds.

    Returns
    -------
    AnnData of conditions by genes, log1p(CP10K): ``X`` predicted mean, ``layers["change"]`` predicted and
    ``layers["measured_change"]`` measured change from control, whose mean is ``var["control"]``.
    """
    rows, predicted, change, measured = [], [], [], []
    for seed, truth in found.truth.items():
        split = found.splits[seed]
        mean = found.predicted[seed, model]
        rows += [
            (condition_name(c), seed, split.group[c], int(n))
            for c, n in zip(truth.conditions, truth.cells, strict=True)
        ]
        predicted.append(mean)
        change.append(mean - truth.control)
        measured.append(truth.delta)
    obs = pd.DataFrame(rows, columns=["condition", "seed", "group", "cells"])
    obs.index = pd.Index([f"{name} seed {seed}" for name, seed in zip(obs["condition"], obs["seed"], strict=True)])
    var = pd.DataFrame({"control": truth.control}, index=list(truth.genes))
    out = anndata.AnnData(np.concatenate(predicted).astype(np.float32), obs=obs, var=var)
    out.layers["change"] = np.concatenate(change).astype(np.float32)
    out.layers["measured_change"] = np.concatenate(measured).astype(np.float32)
    return out


def page_of(found: Evaluation, screen: GenePerturbation, facts: list[tuple[str, str]]) -> str:
    """Return the page of an evaluation."""
    model = type(screen.network).__name__
    cells = screen.screen
    assert cells is not None
    seed = next(iter(found.splits))
    truth, predicted = found.truth[seed], found.predicted[seed, model]
    groups = [found.splits[seed].group[condition] for condition in truth.conditions]
    examples: dict[str, pd.DataFrame] = {}
    # Of each group in turn, so that the page shows all of them.
    order = sorted(range(len(groups)), key=lambda i: (groups[:i].count(groups[i]), groups[i]))
    for i in order[:EXAMPLES]:
        marked = np.full(len(truth.genes), -1)
        marked[truth.marked[i]] = np.arange(truth.marked.shape[1])
        frame = {"gene": truth.genes, "predicted": predicted[i] - truth.control, "true": truth.delta[i]}
        examples[f"{condition_name(truth.conditions[i])} ({groups[i]})"] = pd.DataFrame({**frame, "marked": marked})
    several = found.scores["model"].nunique() > 1
    by_cells: Any = None
    if len(found.cell_eval):
        by_cells = found.cell_eval.pivot_table(
            index="metric", columns="model", values="value", sort=False
        ).reset_index()
    return render_perturbation(
        title=f"Perturbations of {cells.source}",
        model=model,
        summary=found.summary(),
        comparison=compare(found.scores, model) if several else pd.DataFrame(columns=list(COMPARED)),
        examples=examples,
        hits=found.reverse.groupby(["model", "k"], sort=False).mean(numeric_only=True).reset_index(),
        cell_eval=by_cells,
        says=cells.said,
        facts=facts,
    )
