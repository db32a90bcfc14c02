"""The page of chemical perturbation: one HTML file with everything inside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import pandas as pd

from cellfm_torch.plots.perturbed import perturbed_cells
from cellfm_torch.report import page

COLUMNS = {
    "mmd": "MMD",
    "mmd_relative": "MMD over no change",
    "wasserstein": "Wasserstein",
    "r2": "r2 of means",
    "r2_change": "r2 of changes",
}
"""Of the table of scores: figure and heading."""

ACROSS = 2
"""Pictures side by side."""

MOST_UNITS = 12
"""Held-out compounds, or contexts, that are named; split.json has all."""


class Drawn(Protocol):
    """Cells of a condition in the plane."""

    @property
    def condition(self) -> str:
        """Name."""

    @property
    def control(self) -> Any:
        """Positions (n, 2), likewise the others."""

    @property
    def treated(self) -> Any:
        """In truth."""

    @property
    def predicted(self) -> Any:
        """From the control cells."""


def render_chem(
    *,
    title: str,
    says: Iterable[str],
    splits: Sequence[dict[str, Any]],
    summary: pd.DataFrame | None,
    by_condition: pd.DataFrame | None,
    pictures: Sequence[Drawn],
    facts: Iterable[tuple[str, str]],
) -> str:
    """Return the page.

    Parameters
    ----------
    title
        Heading.
    says
        Sentences at the top.
    splits
        What was learned from and asked, as split.json has it.
    summary, by_condition
        Scores; None where nothing was held out.
    pictures
        Test conditions.
    facts
        How the numbers were made.
    """
    parts = ["".join(page.note(line) for line in says)]
    if summary is None:
        parts.append(page.note("Nothing was held out, so that nothing is known of how good the predictions are."))
    else:
        parts += ["<h2>Held-out conditions</h2>", page.note("Mean ± standard deviation over seeds."), _scores(summary)]
    parts += ["<h2>What was held out</h2>", _splits(splits)]
    if pictures:
        parts += ["<h2>Cells of held-out conditions</h2>", page.note("Large crosses are means."), _drawn(pictures)]
    if by_condition is not None:
        parts += ["<h2>Each condition</h2>", page.note("The flow, means over splits."), _frame(by_condition)]
    return page.page(title, "\n".join([*parts, "<h2>How each number was made</h2>", page.summary(facts)]))


def _scores(summary: pd.DataFrame) -> str:
    digits = {"mmd": 4}  # a small number
    rows = []
    for row in summary.to_dict("records"):
        figures = (_figure(row[name], row[f"{name}_sd"], digits.get(name, 3)) for name in COLUMNS)
        rows.append([row["network"], row["method"], *figures])
    marked = list(summary["method"] == "flow")
    return page.table(["network", "method", *COLUMNS.values()], rows, words=(0, 1), marked=marked)


def _splits(splits: Sequence[dict[str, Any]]) -> str:
    rows = []
    for split in splits:
        position = {"compound": 0, "dose": None, "context": 2}.get(split["split"])
        tested = [_condition(c) if position is None else str(c[position]) for c in split["test"]]
        names = list(dict.fromkeys(tested))
        more = f" and {len(names) - MOST_UNITS} more" if len(names) > MOST_UNITS else ""
        held_out = ", ".join(names[:MOST_UNITS]) + more if names else "nothing"
        rows.append([str(split["seed"]), held_out, f"{len(split['train']):,}", f"{len(split['test']):,}"])
    return page.table(["seed", "held out", "conditions learned from", "conditions asked"], rows, words=(1,))


def _condition(condition: Sequence[Any]) -> str:
    drug, dose, context = condition
    return f"{drug} at {dose:g}{f', {context}' if context else ''}"


def _drawn(pictures: Sequence[Drawn]) -> str:
    deep = -(-len(pictures) // ACROSS)
    figure = page.empty_figure(4.4 * min(ACROSS, len(pictures)), 3.6 * deep)
    axes = figure.subplots(deep, min(ACROSS, len(pictures)), squeeze=False).ravel()
    for ax, one in zip(axes, pictures, strict=False):
        perturbed_cells(one.control, one.treated, one.predicted, ax=ax, title=one.condition)
    for ax in axes[len(pictures) :]:
        ax.set_axis_off()
    return f"<figure>{page.svg(figure)}</figure>"


def _figure(mean: float, deviation: float, digits: int) -> str:
    if math.isnan(mean):
        return ""
    return f"{mean:.{digits}f}" if math.isnan(deviation) else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def _frame(table: pd.DataFrame) -> str:
    """Return a data frame as a table, numbers to three digits, words as words."""
    words = [i for i, name in enumerate(table) if not pd.api.types.is_numeric_dtype(table[name])]
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return page.table([str(name).replace("_", " ") for name in table], rows, words=words)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
