"""The page of annotated cells: one HTML file with everything inside.

Shapes: B cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from cellfm_torch.analysis.scores import BINS, class_scores
from cellfm_torch.analysis.subpopulations import LEAST_TO_CLUSTER, stratified_sample
from cellfm_torch.plots.classes import class_bars, confusion_matrix, reliability_curve
from cellfm_torch.report import page, scatter
from cellfm_torch.report.annotated import (
    RARE_SHARE,
    TOP_GENES,
    Annotated,
    predicted_types,
    rare_types,
    unknown_clusters,
)

MOST_CELLS = 50_000
"""Cells in the picture; of larger files a sample, drawn so that rare types stay."""


def render(
    cells: Annotated, *, title: str, facts: Iterable[tuple[str, str]], most: int = MOST_CELLS, seed: int = 0
) -> str:
    """Return the page.

    Parameters
    ----------
    cells
        All of them; numbers and tables are of all, whatever the picture shows.
    title
        Heading.
    facts
        How the numbers were made, as pairs of name and words, put at the end.
    most
        Cells in the picture.
    seed
        Of the sample and the clusters of unknown cells.
    """
    types = predicted_types(cells)
    unknown, codes = unknown_clusters(cells, seed=seed)
    parts = [
        page.summary(_overview(cells, types)),
        "<h2>Cells</h2>",
        _picture(cells, codes, most=most, seed=seed),
        "<h2>Predicted types</h2>",
        _types(types),
    ]
    if cells.truth is not None:
        parts += ["<h2>Against the given types</h2>", _truth(cells)]
    parts += ["<h2>Unknown and rare cells</h2>", _unknown(cells, unknown, rare_types(types))]
    parts += ["<h2>How each number was made</h2>", page.summary([*_methods(cells, seed), *facts])]
    return page.page(title, "\n".join(parts), scripts=scatter.scripts(), style=scatter.STYLE)


def _overview(cells: Annotated, types: pd.DataFrame) -> list[tuple[str, str]]:
    number = len(cells.label)
    rows = [
        ("Cells", f"{number:,}"),
        ("Predicted types", f"{int((types['cells'] > 0).sum())}"),
        ("Unknown", f"{cells.unknown.sum():,} cells ({cells.unknown.mean():.1%}): no known type fits well enough"),
    ]
    if cells.truth is not None:
        truth, predicted = cells.with_truth()
        accepted = predicted != "unknown"
        right = truth == predicted
        share = f"{right[accepted].mean():.1%}" if accepted.any() else "none"
        rows.append(
            ("Correct", f"{right.mean():.1%} of {len(truth):,} cells with a given type; {share} of those not unknown")
        )
        scores = class_scores(truth, predicted)
        rows.append(("Macro F1", f"{scores['f1'].mean():.3f}, the mean over {len(scores)} given types"))
    if cells.batch is not None:
        rows.append(("Batches", f"{len(set(cells.batch))}"))
    if (absent := int((~cells.placed).sum())) > 0:
        rows.append(("Without embedding", f"{absent:,}: no counts in the model's genes; not in the picture"))
    return rows


def _picture(cells: Annotated, codes: np.ndarray, *, most: int, seed: int) -> str:
    placed = np.flatnonzero(cells.placed)
    rows = placed[stratified_sample(cells.prediction[placed], most, seed=seed)]
    columns: dict[str, Any] = {"prediction": cells.prediction[rows]}
    if cells.truth is not None:
        columns["given type"] = cells.truth[rows]
    if cells.probability is not None:
        columns["probability"] = cells.probability[rows].astype(np.float32)
    if cells.runner_up is not None:
        columns["runner-up"] = cells.runner_up[rows]
    if cells.unknown.any():
        columns["likeliest type"] = cells.label[rows]
        columns["unknown cluster"] = np.array([f"unknown {c + 1}" if c >= 0 else None for c in codes[rows]], object)
    if cells.batch is not None:
        columns["batch"] = cells.batch[rows]
    if cells.truth is not None:
        right = np.where(cells.truth == cells.prediction, "right", np.where(cells.unknown, "unknown", "wrong"))
        right = right.astype(object)
        right[[word is None for word in cells.truth]] = None
        columns["right or wrong"] = right[rows]
    text = "Hover for a cell; tick the types to show; drag to zoom, double-click to return."
    if len(rows) < len(placed):
        text += (
            f" {len(rows):,} of {len(placed):,} cells, a sample with at least 200 cells of each type that has so many;"
            " tables and numbers are of all cells."
        )
    part = scatter.cells_part(cells.coordinates[rows], cells.names[rows], columns, filter_by="prediction")
    return page.note(text) + part


def _number(value: float, digits: int = 3) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def _types(types: pd.DataFrame) -> str:
    rows = [
        (row.type, f"{row.cells:,}", f"{row.share:.1%}", _number(row.probability), f"{row.rejected:,}", row.genes)
        for row in types.itertuples()
    ]
    headings = ("Type", "Cells", "Share", "Mean probability", "Rejected", f"Top {TOP_GENES} genes")
    text = "Rejected cells are likeliest of this type and called unknown. Genes: higher than in all other cells."
    return page.note(text) + page.table(headings, rows, words=[5])


def _truth(cells: Annotated) -> str:
    truth, predicted = cells.with_truth()
    scores = class_scores(truth, predicted)
    number = len(scores)
    matrix = page.empty_figure(min(14, 3.6 + 0.55 * number), min(14, 2.2 + 0.42 * number))
    confusion_matrix(truth, predicted, ax=matrix.add_subplot())
    bars = page.empty_figure(7.5, 1.2 + 0.5 * number)
    class_bars(scores, ax=bars.add_subplot())
    parts = [f"<h3>Confusion matrix</h3><figure class='wide'>{page.svg(matrix)}</figure>"]
    parts.append(f"<h3>By given type</h3><figure class='wide'>{page.svg(bars)}</figure>")
    rows = [
        (str(name), f"{row.cells:,}", _number(row.f1), _number(row.precision), _number(row.recall))
        for name, row in zip(scores.index, scores.itertuples(), strict=True)
    ]
    parts.append(page.table(("Given type", "Cells", "F1", "Precision", "Recall"), rows))
    if cells.probability is not None and cells.truth is not None:
        known = np.array([word is not None for word in cells.truth]) & np.isfinite(cells.probability)
        if known.any():
            curve = page.empty_figure(4.8, 4.3)
            right = (cells.label == cells.truth)[known]
            reliability_curve(cells.probability[known], right, ax=curve.add_subplot())
            parts.append("<h3>Calibration</h3>")
            parts.append(page.note("On the dashed line probabilities mean what they say. Larger dots: more cells."))
            parts.append(f"<figure>{page.svg(curve)}</figure>")
    return "\n".join(parts)


def _unknown(cells: Annotated, unknown: pd.DataFrame, rare: pd.DataFrame) -> str:
    parts = []
    if unknown.empty:
        parts.append(page.note("No cell was called unknown."))
    else:
        headings = ["Cluster", "Cells", "Mean probability", "Likeliest types", "Batches", f"Top {TOP_GENES} genes"]
        rows: list[tuple[str, ...]] = [
            (r.cluster, f"{r.cells:,}", _number(r.probability), r.nearest, r.batches, r.genes)
            for r in unknown.itertuples()
        ]
        words = [3, 4, 5]
        if cells.batch is None:
            headings.pop(4)
            rows, words = [(*row[:4], row[5]) for row in rows], [3, 4]
        text = "Rejected cells, clustered by themselves: a cluster with genes of its own may be a new type."
        parts.append(page.note(text) + page.table(headings, rows, words=words))
    if rare.empty:
        parts.append(page.note(f"No predicted type has less than {RARE_SHARE:.0%} of the cells."))
    else:
        rows = [(r.type, f"{r.cells:,}", f"{r.share:.2%}", _number(r.probability), r.genes) for r in rare.itertuples()]
        parts.append(f"<h3>Rare types</h3>{page.note(f'Less than {RARE_SHARE:.0%} of the cells.')}")
        headings = ["Type", "Cells", "Share", "Mean probability", f"Top {TOP_GENES} genes"]
        parts.append(page.table(headings, rows, words=[4]))
    return "\n".join(parts)


def _methods(cells: Annotated, seed: int) -> list[tuple[str, str]]:
    genes = (
        "Welch's t on log1p(CP10K) of the group against the others; higher in the group, at a false discovery rate of "
        "5 % (Benjamini-Hochberg over all genes); as scanpy's rank_genes_groups with t-test"
    )
    clusters = (
        f"Leiden, resolution 0.5, 15 neighbours on the embedding of the unknown cells, seed {seed}; one cluster below "
        f"{LEAST_TO_CLUSTER} cells"
    )
    rows = [("Genes", genes), ("Unknown clusters", clusters)]
    if cells.truth is not None:
        scores = (
            "unknown counts as a wrong answer; precision, recall and F1 of each given type; macro F1 is their mean "
            f"without weights; calibration is of the likeliest type, before rejection, in {BINS} bins"
        )
        rows.append(("Scores", scores))
    return rows
