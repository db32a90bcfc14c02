"""Predicted and true drug response. Functions take ``ax=None`` and return the axis, as in scanpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cellfm_torch.errors import UserError
from cellfm_torch.plots.cells import PALETTE, axis_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST_POINTS = 3000


def response_scatter(true: Any, predicted: Any, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw predicted against true ln(uM), with the diagonal; of many pairs a sample that lies evenly in their order.

    Raises
    ------
    UserError
        If there is not one prediction per pair, or no pair.
    """
    a, b = np.asarray(true, dtype=float), np.asarray(predicted, dtype=float)
    if len(a) != len(b) or not len(a):
        raise UserError(f"response scatter: {len(a)} true and {len(b)} predicted values: give one of each per pair")
    some = np.linspace(0, len(a) - 1, min(len(a), MOST_POINTS)).astype(int)
    ax = axis_of(ax, (4.2, 4.0))
    ax.scatter(a[some], b[some], s=8, alpha=0.5, linewidths=0, color=PALETTE[0])
    ends = [float(min(a.min(), b.min())), float(max(a.max(), b.max()))]
    ax.plot(ends, ends, color="#555555", linestyle="--", linewidth=1)
    ax.set(xlabel="measured ln IC50 (uM)", ylabel="predicted")
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(title, fontsize=10, loc="left")
    return ax


def drug_bars(
    per_drug: pd.DataFrame, ax: Axes | None = None, title: str | None = None, *, other: str, most: int = 25
) -> Axes:
    """Draw the Pearson correlation of the best-told drugs, and that of another method as a mark.

    Parameters
    ----------
    per_drug
        Columns ``name``, ``method``, ``pearson``; methods ``model`` and `other`.

    Raises
    ------
    UserError
        If a column is missing or the table is empty.
    """
    missing = [name for name in ("name", "drug", "method", "pearson") if name not in per_drug]
    if missing or per_drug.empty:
        raise UserError(f"drug bars: the table lacks {', '.join(missing) or 'rows'}")
    ours = per_drug[per_drug["method"] == "model"].set_index("drug").sort_values("pearson", ascending=False)[:most]
    theirs = per_drug[per_drug["method"] == other].set_index("drug").reindex(ours.index)
    ax = axis_of(ax, (5.0, 1.0 + 0.2 * len(ours)))
    places = np.arange(len(ours))
    ax.barh(places, ours["pearson"], height=0.7, color=PALETTE[0], label="model")
    ax.scatter(theirs["pearson"], places, marker="|", s=60, color=PALETTE[5], zorder=3, label=other)
    ax.set_yticks(places, list(ours["name"]), fontsize=8)
    ax.set_ylim(len(ours) - 0.4, -0.6)
    ax.set(xlabel="Pearson over the lines of a test")
    ax.axvline(0, color="#555555", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
    if title:
        ax.set_title(title, fontsize=10, loc="left")
    return ax


def sensitivity_histogram(
    probability: Any, truth: Any = None, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw how many cells have which probability of being sensitive, by true response where it is known.

    Raises
    ------
    UserError
        If no cell has a probability, or there is not one word per cell.
    """
    values = np.asarray(probability, dtype=float)
    words = np.full(len(values), "cells", dtype=object) if truth is None else np.asarray(truth, dtype=object)
    if len(words) != len(values) or not np.isfinite(values).any():
        raise UserError(f"sensitivity: {len(values)} probabilities and {len(words)} words: give one of each per cell")
    from matplotlib.ticker import MaxNLocator

    ax = axis_of(ax, (5.0, 3.2))
    kinds = sorted({str(word) for word in words[np.isfinite(values)]})
    for i, kind in enumerate(kinds):
        own = values[(words.astype(str) == kind) & np.isfinite(values)]
        ax.hist(
            own,
            bins=[j / 30 for j in range(31)],
            alpha=0.6,
            color=PALETTE[i % len(PALETTE)],
            label=f"{kind} ({len(own):,})",
        )
    ax.set(xlim=(0, 1), xlabel="probability of being sensitive", ylabel="cells")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
    if title:
        ax.set_title(title, fontsize=10, loc="left")
    return ax
