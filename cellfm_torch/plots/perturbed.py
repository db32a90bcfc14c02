"""Cells before and after, predicted and true, in the plane.

Shapes: n cells.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cellfm_torch.plots.cells import PALETTE

KINDS = {"control": "#B5B5B5", "treated": PALETTE[0], "predicted": PALETTE[1]}
"""Colour of each; what is drawn later lies on top."""


def perturbed_cells(
    control: Any, treated: Any, predicted: Any, *, ax: Axes | None = None, title: str = "", legend: bool = True
) -> Axes:
    """Draw control cells, treated ones and what was predicted of the former, with their means as crosses.

    Parameters
    ----------
    control, treated, predicted : (n, 2)
        Positions, of no unit, the first along the way from the mean of control to that of treated cells; n may differ.
    ax
        Where; None: a new figure.

    Returns
    -------
    Axes
    """
    if ax is None:
        ax = Figure(figsize=(4.2, 3.8), layout="constrained").add_subplot()
    for (name, colour), points in zip(KINDS.items(), (control, treated, predicted), strict=True):
        x, y = np.asarray(points, dtype=float).T
        marker = "x" if name == "predicted" else "o"
        look: dict[str, Any] = {"linewidths": 0.8} if marker == "x" else {"linewidths": 0}
        ax.scatter(x, y, s=12, color=colour, marker=marker, alpha=0.6, label=f"{name} ({len(x):,})", **look)
    for colour, points in zip(KINDS.values(), (control, treated, predicted), strict=True):
        x, y = np.asarray(points, dtype=float).mean(0)
        ax.plot(x, y, "P", color=colour, markersize=11, markeredgecolor="black", markeredgewidth=1.0, zorder=5)
    ax.set(xticks=[], yticks=[], xlabel="from control to treated", ylabel="most of the rest")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(title, fontsize=10, loc="left")
    if legend:
        ax.legend(frameon=False, fontsize=8, loc="best", handletextpad=0.2)
    return ax
