"""Genes against groups of cells as dots: how large, how many cells express it; how dark, how much weight it has.

Shapes: M genes, C groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cellfm_torch.errors import UserError
from cellfm_torch.plots.cells import axis_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LARGEST = 90.0
"""Area of a dot of all cells, in square points."""


def gene_dots(
    table: Any, genes: Sequence[str], *, ax: Axes | None = None, colour: str = "weight", size: str = "share"
) -> Axes:
    """Draw one dot per gene and group, as scanpy's dotplot.

    Parameters
    ----------
    table
        A data frame with ``group``, ``gene`` and the columns that `colour` and `size` name.
    genes
        Which, in order.
    ax
        Where; None: a new figure.
    colour
        Column of the colour; each gene from 0 to its highest group.
    size
        Column of the area, between 0 and 1.

    Raises
    ------
    UserError
        If no gene is to be drawn.
    """
    if not genes:
        raise UserError("gene dots: there is no gene to draw")
    groups = list(dict.fromkeys(table["group"]))
    values, shares = (
        table.pivot(index="group", columns="gene", values=name).reindex(index=groups, columns=list(genes)).to_numpy()
        for name in (colour, size)
    )
    ax = axis_of(ax, (2.5 + 0.24 * len(genes), 1.8 + 0.3 * len(groups)))
    highest = np.nanmax(values, axis=0)
    y, x = np.indices(values.shape)
    dots = ax.scatter(
        x.ravel(),
        y.ravel(),
        s=LARGEST * np.nan_to_num(shares).ravel(),
        c=np.nan_to_num(values / np.where(highest > 0, highest, 1)).ravel(),
        cmap="Reds",
        vmin=0,
        vmax=1,
        edgecolors="0.6",
        linewidths=0.3,
    )
    ax.set_xticks(range(len(genes)), list(genes), rotation=90, fontsize=8)
    ax.set_yticks(range(len(groups)), groups)
    ax.set(xlim=(-0.7, len(genes) - 0.3), ylim=(len(groups) - 0.4, -0.6))
    ax.figure.colorbar(dots, ax=ax, shrink=0.6, label=f"{colour}, of the highest group")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(f"area: {size} of cells that express the gene", loc="left", fontsize=8)
    return ax
