"""The page of gene modules: one HTML file with everything inside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import pandas as pd

from cellfm_torch.plots.gene_modules import activity_heat_map, gene_network
from cellfm_torch.report import page

MOST_SETS = 5
"""Of a module, in its table."""


def render_modules(
    *,
    title: str,
    overview: pd.DataFrame,
    enrichment: pd.DataFrame,
    comparison: pd.DataFrame,
    resolutions: pd.DataFrame,
    activity: pd.DataFrame | None,
    networks: Mapping[str, pd.DataFrame],
    says: Iterable[str],
    facts: Iterable[tuple[str, str]],
) -> str:
    """Return the page.

    Parameters
    ----------
    title
        Heading.
    overview, enrichment, comparison, resolutions, activity
        As a result of modules has them.
    networks
        Edges of the modules that are drawn, by name.
    says
        Sentences at the top.
    facts
        How the numbers were made.
    """
    parts = ["".join(page.note(line) for line in says), "<h2>Modules</h2>", _frame(overview)]
    if activity is not None:
        figure = page.empty_figure(2.4 + 0.5 * activity.shape[1], 1.8 + 0.28 * len(activity))
        activity_heat_map(activity, ax=figure.add_subplot())
        parts += ["<h2>Activity by group of cells</h2>", f"<figure>{page.svg(figure)}</figure>"]
    for name, edges in networks.items():
        parts.append(f"<h3>{name}</h3>")
        figure = page.empty_figure(5.6, 4.6)
        gene_network(edges, ax=figure.add_subplot())
        parts.append(f"<figure>{page.svg(figure)}</figure>")
        sets = enrichment[enrichment["module"] == name].head(MOST_SETS)
        if len(sets):
            parts.append(_frame(sets[["set", "overlap", "set_genes", "fold", "fdr", "genes"]]))
    parts += ["<h2>Beside other embeddings</h2>", _frame(comparison)]
    parts += ["<h2>Resolutions</h2>", _frame(resolutions)]
    parts += ["<h2>How each number was made</h2>", page.summary(facts)]
    return page.page(title, "\n".join(parts))


def _frame(table: pd.DataFrame) -> str:
    """Return a data frame as a table, numbers to three digits, words as words."""
    words = [i for i, name in enumerate(table) if not pd.api.types.is_numeric_dtype(table[name])]
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return page.table([str(name).replace("_", " ") for name in table], rows, words=words)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
