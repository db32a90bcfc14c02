"""Scores of ways to tell something of genes, as bars.

Shapes: R ways, S repeats (groups, seeds or folds).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def ratio_bars(
    table: Any, name: str, value: str, *, ax: Axes | None = None, title: str = "", chance: float = 1.0
) -> Axes:
    """Draw the mean of a score over repeats as bars, its repeats as points, and chance as a line.

    Parameters
    ----------
    table
        A data frame with a row for each way and repeat.
    name, value
        Its columns: the way, and the score.
    ax
        Where; None: a new figure.
    chance
        Score of a guess.

    Returns
    -------
    Axes
    """
    if ax is None:
        ax = Figure(figsize=(8, 5), layout="constrained").add_subplot()
    ways = list(dict.fromkeys(table[name]))[::-1]
    for i, way in enumerate(ways):
        scores = table.loc[table[name] == way, value].to_numpy(dtype=float)
        ax.barh(i, scores.mean(), color="C0" if way.startswith("retention, all") else "0.75")
        if len(scores) > 1:
            ax.plot(scores, np.full(len(scores), i), ".", color="0.2", markersize=3)
    ax.axvline(chance, color="0.2", linewidth=0.8, linestyle="--")
    ax.set_yticks(range(len(ways)), ways)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(title, loc="left", fontsize=10)
    return ax
