"""The page of bulk drug response: one HTML file with everything inside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from cellfm_torch.plots.drug import drug_bars, response_scatter
from cellfm_torch.report import page

MOST_UNITS = 12
"""Held-out units that are named; split.json has all."""


def render_drug(
    *,
    title: str,
    says: Iterable[str],
    summary: pd.DataFrame,
    metrics: dict[str, str],
    per_drug: pd.DataFrame,
    best: str,
    predictions: pd.DataFrame,
    splits: Sequence[dict[str, Any]],
    facts: Iterable[tuple[str, str]],
) -> str:
    """Return the page.

    Parameters
    ----------
    title
        Heading.
    says
        Sentences at the top.
    summary
        A row per method: `metrics` (name and heading) with their deviations (``_sd``).
    per_drug
        ``drug``, ``name``, ``method``, ``pairs``, ``pearson``, ``rmse``.
    best
        Method that is drawn beside the model.
    predictions
        ``ln_ic50`` and ``predicted`` of the model's test pairs.
    splits
        What was held out, as split.json has it.
    facts
        How the numbers were made.
    """
    parts = ["".join(page.note(line) for line in says), "<h2>Held-out IC50</h2>"]
    parts.append(page.note("Mean ± standard deviation over seeds; RMSE in ln(uM)."))
    rows = [[row["method"], *(_figure(row[k], row[f"{k}_sd"]) for k in metrics)] for row in summary.to_dict("records")]
    marked = list(summary["method"] == "model")
    parts.append(page.table(["method", *metrics.values()], rows, words=(0,), marked=marked))
    figure = page.empty_figure(4.4, 4.2)
    response_scatter(predictions["ln_ic50"], predictions["predicted"], ax=figure.add_subplot())
    parts.append(f"<figure>{page.svg(figure)}</figure>")
    parts += ["<h2>What was held out</h2>", _splits(splits)]
    if len(per_drug):
        shown = min(25, per_drug["drug"].nunique())
        figure = page.empty_figure(6.0, 1.2 + 0.2 * shown)
        drug_bars(per_drug, ax=figure.add_subplot(), other=best)
        parts += ["<h2>Drug by drug</h2>", f"<figure>{page.svg(figure)}</figure>", _drugs(per_drug)]
    return page.page(title, "\n".join([*parts, "<h2>How each number was made</h2>", page.summary(facts)]))


def _splits(splits: Sequence[dict[str, Any]]) -> str:
    rows = []
    for split in splits:
        names = split.get("names", split.get("units", {})).get("test", [])
        more = f" and {len(names) - MOST_UNITS} more" if len(names) > MOST_UNITS else ""
        named = f": {', '.join(names[:MOST_UNITS])}{more}" if names else ""
        numbers = [f"{split['pairs'][name]:,}" for name in ("train", "validation", "test")]
        rows.append([str(split["seed"]), split["held_out"] + named, *numbers])
    return page.table(["seed", "held out", "pairs learned from", "to stop by", "tested"], rows, words=(1,))


def _drugs(per_drug: pd.DataFrame) -> str:
    ours = per_drug[per_drug["method"] == "model"].sort_values("pearson", ascending=False)
    rows = [
        [str(row["name"]), str(row["drug"]), f"{row['pairs']:.0f}", f"{row['pearson']:.3f}", f"{row['rmse']:.3f}"]
        for row in ours.to_dict("records")
    ]
    return page.table(["drug", "id", "test pairs", "Pearson", "RMSE"], rows, words=(0, 1))


def _figure(mean: float, deviation: float) -> str:
    if math.isnan(mean):
        return ""
    return f"{mean:.3f}" if math.isnan(deviation) else f"{mean:.3f} ± {deviation:.3f}"
