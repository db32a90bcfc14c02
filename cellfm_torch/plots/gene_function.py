"""Scores of predicted gene function as bars. Takes ``ax=None`` and returns the axis, as in scanpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cellfm_torch.errors import UserError
from cellfm_torch.plots.cells import PALETTE, axis_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def function_bars(
    summary: pd.DataFrame,
    ax: Axes | None = None,
    title: str | None = None,
    *,
    metric: str = "auroc",
    chance: float | None = 0.5,
    legend: bool = True,
) -> Axes:
    """Draw a bar for each features and probe, with the standard deviation over folds and seeds.

    Parameters
    ----------
    summary
        Columns ``features``, ``probe``, `metric` and `metric`_sd, of one task.
    chance
        Where a line is drawn; None for none.

    Raises
    ------
    UserError
        If a column is missing or the table is empty.
    """
    needed = ("features", "probe", metric, f"{metric}_sd")
    missing = [name for name in needed if name not in summary]
    if missing or summary.empty:
        raise UserError(f"function bars: the table lacks {', '.join(missing) or 'rows'}")
    rows = list(dict.fromkeys(summary["features"]))
    probes = [name for name in dict.fromkeys(summary["probe"]) if name != "none"]
    ax = axis_of(ax, (6.0, 1.2 + 0.16 * len(rows) * max(len(probes), 1)))
    height = 0.8 / max(len(probes), 1)
    for i, probe in enumerate(probes):
        part = summary[summary["probe"] == probe].set_index("features").reindex(rows)
        places = np.arange(len(rows)) - 0.4 + (i + 0.5) * height
        ax.barh(
            places,
            part[metric],
            height=0.9 * height,
            color=PALETTE[i % len(PALETTE)],
            label=probe,
            xerr=part[f"{metric}_sd"].fillna(0),
            error_kw={"elinewidth": 0.8, "ecolor": "#333333"},
        )
    alone = summary[summary["probe"] == "none"].set_index("features").reindex(rows)
    ax.barh(range(len(rows)), alone[metric], height=0.3, color="#999999")
    if chance is not None:
        ax.axvline(chance, color="#555555", linestyle="--", linewidth=1)
    ax.set_yticks(range(len(rows)), rows, fontsize=9)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set(xlim=(0, 1), xlabel={"auroc": "AUROC", "aupr": "AUPR"}.get(metric, metric))
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", alpha=0.25)
    if legend and probes:
        ax.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(1.0, 0.0))
    if title:
        ax.set_title(title, fontsize=10, loc="left", wrap=True)
    return ax
