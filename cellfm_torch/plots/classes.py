"""Pictures of a classification: confusion matrix, bars per class, calibration.

Functions take ``ax=None`` and return the axis, as in scanpy.

Shapes: B cells, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cellfm_torch.analysis.scores import BINS, Words, calibration, confusion_counts
from cellfm_torch.errors import UserError
from cellfm_torch.plots.cells import PALETTE, axis_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

METRICS = {"f1": "F1", "precision": "precision", "recall": "recall"}


def confusion_matrix(truth: Words, predicted: Words, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw which share of each true class was predicted as what; numbers are cells.

    Parameters
    ----------
    truth, predicted : (B,)
        Names of classes. They may differ: a prediction that is no true class has a column of its own.

    Raises
    ------
    UserError
        If there is not one prediction per cell, or no cell.
    """
    counts = confusion_counts(truth, predicted)
    shares = counts.div(counts.sum(1), axis=0).to_numpy()
    rows, columns = counts.shape
    ax = axis_of(ax, (2.6 + 0.5 * columns, 2.0 + 0.4 * rows))
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if rows * columns <= 900:
        size = 8 if columns <= 15 else 6
        for i, j in zip(*np.nonzero(counts.to_numpy()), strict=True):
            colour = "white" if shares[i, j] > 0.55 else "#222222"
            ax.text(j, i, f"{counts.iat[i, j]:,}", ha="center", va="center", fontsize=size, color=colour)
    ax.set_xticks(range(columns), counts.columns, rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
    ax.set_yticks(range(rows), [f"{name} ({n:,})" for name, n in counts.sum(1).items()], fontsize=9)
    ax.set(xlabel="predicted", ylabel="true (cells)")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.figure.colorbar(image, ax=ax, shrink=0.6, label="share of the true class")
    if title:
        ax.set_title(title, fontsize=11, loc="left")
    return ax


def class_bars(scores: pd.DataFrame, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw F1, precision and recall of each class as bars.

    Parameters
    ----------
    scores
        As :func:`~cellfm_torch.analysis.scores.class_scores` returns them: one row per class, columns ``f1``,
        ``precision``, ``recall``, ``cells``.

    Raises
    ------
    UserError
        If a column is missing or the table is empty.
    """
    missing = [name for name in (*METRICS, "cells") if name not in scores]
    if missing or scores.empty:
        raise UserError(f"class bars: the table lacks {', '.join(missing) or 'rows'}; class_scores makes one")
    ax = axis_of(ax, (6.0, 1.2 + 0.5 * len(scores)))
    places = np.arange(len(scores))
    for i, (name, label) in enumerate(METRICS.items()):
        offset = (i - 1) * 0.26
        ax.barh(places + offset, scores[name], height=0.24, color=PALETTE[(0, 4, 1)[i]], label=label)
    ax.set_yticks(places, [f"{name} ({cells:,})" for name, cells in scores["cells"].items()], fontsize=9)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="score, 1 the best")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", alpha=0.25)
    ax.legend(frameon=False, fontsize=9, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    if title:
        ax.set_title(title, fontsize=11, loc="left", pad=22)
    return ax


def reliability_curve(
    probability: Any, correct: Any, ax: Axes | None = None, title: str | None = None, *, bins: int = BINS
) -> Axes:
    """Draw how often predictions were right against how sure they were; on the diagonal where they are calibrated.

    Parameters
    ----------
    probability : (B,)
        Of the predicted class, between 0 and 1.
    correct : (B,) bool

    Raises
    ------
    UserError
        If there is not one probability per cell, or one is outside of 0 to 1.
    """
    p = np.asarray(probability, dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise UserError(f"calibration: probabilities must be between 0 and 1, found {p.min():.3g} to {p.max():.3g}")
    error, curve = calibration(p, correct, bins=bins)
    ax = axis_of(ax, (4.6, 4.2))
    ax.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1, zorder=1)
    ax.plot(curve[:, 0], curve[:, 1], color=PALETTE[0], linewidth=1.4, zorder=2)
    # Areas tell how many cells stand behind a point.
    sizes = 14 + 160 * curve[:, 2] / curve[:, 2].max()
    ax.scatter(curve[:, 0], curve[:, 1], s=sizes, color=PALETTE[0], alpha=0.75, linewidths=0, zorder=3)
    ax.text(0.98, 0.02, f"expected calibration error {error:.3f}", fontsize=9, ha="right")
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="probability of the predicted type", ylabel="share correct")
    ax.set_aspect("equal")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    if title:
        ax.set_title(title, fontsize=11, loc="left")
    return ax
