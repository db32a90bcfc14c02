"""How far edits of genes move cells, beside genes of the same expression.

Shapes: M genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cellfm_torch.plots.cells import PALETTE, axis_of, log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def gene_shifts(table: Any, *, ax: Axes | None = None, title: str = "", fdr: float = 0.05, labels: int = 5) -> Axes:
    """Draw each gene's mean shift against that of genes in its place, both on a logarithmic scale.

    Parameters
    ----------
    table
        A data frame with ``gene``, ``shift``, ``null``, ``z`` and ``fdr``; rows without a test are left out.
    ax
        Where; None: a new figure.
    fdr
        Genes up to this false discovery rate are coloured.
    labels
        Genes that are named, by falling z.
    """
    ax = axis_of(ax, (5, 4.5))
    rows = table[(table["shift"] > 0) & (table["null"] > 0)].sort_values("z", ascending=False)
    found = (rows["fdr"] <= fdr).to_numpy()
    x, y = rows["null"].to_numpy(dtype=float), rows["shift"].to_numpy(dtype=float)
    ax.scatter(x[~found], y[~found], s=14, c="0.7", linewidths=0, label=f"FDR above {fdr:g}")
    ax.scatter(x[found], y[found], s=18, c=PALETTE[5], linewidths=0, label=f"FDR at most {fdr:g}")
    for gene, a, b in list(zip(rows["gene"], x, y, strict=True))[:labels]:
        ax.annotate(gene, (a, b), xytext=(3, 2), textcoords="offset points", fontsize=7)
    if len(rows):
        ends = np.array([min(x.min(), y.min()) / 1.5, max(x.max(), y.max()) * 1.5])
        ax.plot(ends, ends, "--", color="0.5", linewidth=0.8)
        ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        log_ticks(ax.xaxis)
        log_ticks(ax.yaxis)
        ax.legend(frameon=False, fontsize=7, loc="best")
    else:
        ax.set(xticks=[], yticks=[])
        ax.text(0.5, 0.5, "no gene was edited\nin enough cells", ha="center", va="center", transform=ax.transAxes)
    ax.set_xlabel("genes of the same expression, 1 - cosine")
    ax.set_ylabel("gene, 1 - cosine")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(title, loc="left", fontsize=9)
    return ax
