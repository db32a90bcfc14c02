"""A table of scores as a picture. Takes ``ax=None`` and returns the axis, as in scanpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cellfm_torch.errors import UserError
from cellfm_torch.plots.cells import PALETTE, axis_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def score_table(scores: pd.DataFrame, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw each score as a number over a bar; the best of a column in bold.

    Parameters
    ----------
    scores
        One row per method, one column per score, between 0 and 1, 1 the best; NaN where there is none.

    Raises
    ------
    UserError
        If the table is empty.
    """
    if scores.empty:
        raise UserError("score table: there are no scores to draw")
    rows, columns = scores.shape
    ax = axis_of(ax, (2.2 + 1.05 * columns, 0.9 + 0.42 * rows))
    values = scores.to_numpy(dtype=float)
    for i, j in np.ndindex(rows, columns):
        value = values[i, j]
        ax.barh(i, 0.9, left=j, height=0.72, color="#f0f0f0")
        if np.isnan(value):
            ax.text(j + 0.45, i, "-", ha="center", va="center", fontsize=9)
            continue
        summary = str(scores.columns[j]).startswith(("mean", "total"))
        ax.barh(i, 0.9 * float(np.clip(value, 0, 1)), left=j, height=0.72, color=PALETTE[1 if summary else 4])
        best = round(value, 3) == round(float(np.nanmax(values[:, j])), 3)
        weight = "bold" if best else "normal"
        ax.text(j + 0.45, i, f"{value:.3f}", ha="center", va="center", fontsize=9, fontweight=weight)
    ax.set_yticks(range(rows), [str(name) for name in scores.index])
    ax.set_xticks(np.arange(columns) + 0.45, [str(name).replace(" ", "\n", 1) for name in scores.columns], fontsize=9)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set(xlim=(-0.05, columns), ylim=(rows - 0.5, -0.5))
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title, fontsize=11, loc="left")
    return ax
