"""Modules of genes: where they are active, and who is in them. Take ``ax=None`` and return the axis, as in scanpy.

Shapes: C modules, K groups of cells.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np

from cellfm_torch.errors import UserError
from cellfm_torch.plots.cells import PALETTE, axis_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

MOST_LABELLED = 40
"""Genes of a network beyond which names would cover each other."""


def activity_heat_map(activity: pd.DataFrame, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the mean activity of modules (rows) in groups of cells (columns), red above 0 and blue below.

    Parameters
    ----------
    activity : (C, K)
        Mean z-score.

    Raises
    ------
    UserError
        If the table is empty.
    """
    if activity.empty:
        raise UserError("heat map: there is no module or no group of cells to draw")
    values = activity.to_numpy(dtype=float)
    rows, columns = values.shape
    ax = axis_of(ax, (2.4 + 0.5 * columns, 1.8 + 0.28 * rows))
    limit = max(float(np.nanmax(np.abs(values))), 1e-9)
    image = ax.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    ax.set_xticks(range(columns), activity.columns, rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
    ax.set_yticks(range(rows), activity.index, fontsize=9 if rows <= 30 else 6)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.figure.colorbar(image, ax=ax, shrink=0.7, label="mean z-score")
    if title:
        ax.set_title(title, fontsize=11, loc="left")
    return ax


def gene_network(
    edges: pd.DataFrame, ax: Axes | None = None, title: str | None = None, *, colour: str = PALETTE[0], seed: int = 0
) -> Axes:
    """Draw genes as dots and similar ones joined, laid out by the force-directed rule of Fruchterman and Reingold.

    Parameters
    ----------
    edges
        Columns ``a``, ``b`` and ``weight``, one row each.
    seed
        Of the layout.

    Raises
    ------
    UserError
        If a column is missing or there is no edge.
    """
    import igraph
    from matplotlib.patheffects import withStroke

    missing = [name for name in ("a", "b", "weight") if name not in edges]
    if missing or edges.empty:
        raise UserError(f"gene network: the table lacks {', '.join(missing) or 'rows'}")
    names = list(dict.fromkeys([*edges["a"], *edges["b"]]))
    place = {name: i for i, name in enumerate(names)}
    pairs = [(place[a], place[b]) for a, b in zip(edges["a"], edges["b"], strict=True)]
    igraph.set_random_number_generator(random.Random(seed))
    try:
        layout = igraph.Graph(n=len(names), edges=pairs).layout_fruchterman_reingold(niter=1000)
    finally:
        igraph.set_random_number_generator(random)  # igraph's default
    xy = np.asarray(layout.coords, dtype=float)
    ax = axis_of(ax, (4.6, 4.2))
    weights = edges["weight"].to_numpy(dtype=float)
    span = max(float(weights.max() - weights.min()), 1e-12)
    for (i, j), weight in zip(pairs, (weights - weights.min()) / span, strict=True):
        ax.plot(xy[[i, j], 0], xy[[i, j], 1], color="#999999", linewidth=0.5 + 1.5 * weight, alpha=0.6, zorder=1)
    degree = np.bincount(np.array(pairs).ravel(), minlength=len(names))
    ax.scatter(xy[:, 0], xy[:, 1], s=18 + 40 * (np.sqrt(degree) - 1), color=colour, linewidths=0, zorder=2)
    style: dict[str, Any] = {"fontsize": 7, "ha": "center", "va": "bottom", "zorder": 3}
    style["path_effects"] = [withStroke(linewidth=2, foreground="white")]  # names lie on lines and dots
    texts = [
        ax.annotate(names[int(i)], xy[i], xytext=(0, 3), textcoords="offset points", **style)
        for i in np.argsort(-degree, kind="stable")[:MOST_LABELLED]
    ]
    ax.set(xticks=[], yticks=[])
    ax.margins(0.12)
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title, fontsize=10, loc="left")
    _thin_out(texts, ax)
    return ax


def _thin_out(texts: list[Annotation], ax: Axes) -> None:
    """Put texts that would lie on one before them below their dots, or take them away."""
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # lays the axes out: where texts will be
    kept: list[Any] = []
    for text in texts:
        for above in (True, False):
            text.xyann = (0, 3 if above else -5)
            text.set_verticalalignment("bottom" if above else "top")
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in kept):
                kept.append(box)
                break
        else:
            text.remove()
