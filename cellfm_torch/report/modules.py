"""The page of gene modules: one HTML file with everything inside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import pandas as pd

from cellfm_torch.plots.gene_modules import activity_heat_map, gene_network
from cellfm_torch.report import page

MOST_SETS = 5
"""Of a module, in its table."""

MOST_GENES = 15
"""Of a set, in its row; the csv has all."""


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
    numbers = overview.set_index("module")["enriched"]
    for name, edges in networks.items():
        parts.append(f"<h3>{name}</h3>")
        figure = page.empty_figure(5.6, 4.6)
        gene_network(edges, ax=figure.add_subplot())
        parts.append(f"<figure>{page.svg(figure)}</figure>")
        parts.append(_sets(enrichment[enrichment["module"] == name], int(numbers[name])))
    parts += ["<h2>Beside other embeddings</h2>", _frame(comparison)]
    parts += ["<h2>Resolutions</h2>", _frame(resolutions)]
    parts += ["<h2>How each number was made</h2>", page.summary(facts)]
    return page.page(title, "\n".join(parts))


def _sets(table: pd.DataFrame, enriched: int) -> str:
    """Return the first sets of a module that count, of which there are `enriched`."""
    if not enriched:
        return page.note("No gene set is enriched." if len(table) else "No gene set was tested.")
    columns = ["set", "overlap", "set_genes", "fold", "fdr", "genes"]
    shown = table[columns].head(min(enriched, MOST_SETS))
    return _frame(shown.assign(genes=[_first(words.split()) for words in shown["genes"]]))


def _first(genes: list[str]) -> str:
    more = f" and {len(genes) - MOST_GENES} more" if len(genes) > MOST_GENES else ""
    return " ".join(genes[:MOST_GENES]) + more


def _frame(table: pd.DataFrame) -> str:
    """Return a data frame as a table, numbers to three digits, words as words."""
    words = [i for i, name in enumerate(table) if not pd.api.types.is_numeric_dtype(table[name])]
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return page.table([str(name).replace("_", " ") for name in table], rows, words=words)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
