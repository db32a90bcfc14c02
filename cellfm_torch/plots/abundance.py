"""Where a condition is enriched, on the UMAP. Takes ``ax=None`` and returns the axis, as in scanpy.

Shapes: B cells, H neighbourhoods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cellfm_torch.errors import UserError
from cellfm_torch.plots.cells import axis_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def abundance_plot(
    coords: Any, log2_odds: Any, ax: Axes | None = None, title: str | None = None, *, label: str = "log2 odds"
) -> Axes:
    """Scatter cells in the plane: red where the case has more, blue where it has less, grey in no significant place.

    Parameters
    ----------
    coords : (B, 2)
    log2_odds : (B,)
        Mean over the significant neighbourhoods of each cell, 0 where it lies in none.
    label
        Of the colour bar.

    Raises
    ------
    UserError
        If there is not one value per cell.
    """
    xy, values = np.asarray(coords, dtype=float), np.asarray(log2_odds, dtype=float)
    if len(xy) != len(values):
        raise UserError(f"enrichment picture: {len(values)} values for {len(xy)} cells; give one value per cell")
    ax = axis_of(ax, (6.0, 4.5))
    hit = values != 0
    dots: dict[str, Any] = {"s": float(np.clip(12000 / max(len(xy), 1), 1.5, 28)), "linewidths": 0}
    ax.scatter(xy[~hit, 0], xy[~hit, 1], color="#d5d5d5", **dots)
    limit = float(np.abs(values[hit]).max()) if hit.any() else 1.0
    drawn = ax.scatter(xy[hit, 0], xy[hit, 1], c=values[hit], cmap="RdBu_r", vmin=-limit, vmax=limit, **dots)
    ax.figure.colorbar(drawn, ax=ax, shrink=0.6, label=label)
    ax.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(title, fontsize=11, loc="left")
    return ax
