"""The page of single-cell drug response: one HTML file with everything inside."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from cellfm_torch.plots.drug import sensitivity_histogram
from cellfm_torch.report import page


def render_drug_cells(
    *,
    title: str,
    says: Iterable[str],
    scores: pd.DataFrame | None,
    probability: Any,
    truth: Any,
    facts: Iterable[tuple[str, str]],
) -> str:
    """Return the page.

    Parameters
    ----------
    title
        Heading.
    says
        Sentences at the top.
    scores
        By method ``auroc`` and ``aupr`` with ``_low`` and ``_high``; None where the truth is unknown.
    probability
        Of each cell to be sensitive, (n,).
    truth
        Words of each cell, or None.
    facts
        How the numbers were made.
    """
    parts = ["".join(page.note(line) for line in says)]
    if scores is not None:
        rows = [[row["method"], _with(row, "auroc"), _with(row, "aupr")] for row in scores.to_dict("records")]
        parts += ["<h2>Sensitive told from resistant cells</h2>", page.note("With 95 % intervals.")]
        marked = [i == 0 for i in range(len(rows))]
        parts.append(page.table(["method", "AUROC", "AUPR"], rows, words=(0,), marked=marked))
    figure = page.empty_figure(5.0, 3.2)
    sensitivity_histogram(probability, truth, ax=figure.add_subplot())
    parts += ["<h2>Cells</h2>", f"<figure>{page.svg(figure)}</figure>"]
    return page.page(title, "\n".join([*parts, "<h2>How each number was made</h2>", page.summary(facts)]))


def _with(row: dict[str, Any], metric: str) -> str:
    return f"{row[metric]:.3f} ({row[f'{metric}_low']:.3f} to {row[f'{metric}_high']:.3f})"
