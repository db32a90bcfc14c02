"""Pictures of read-depth enhancement.

Shapes: none; tables of scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORDS = {
    "mae": "mean absolute error",
    "mae_expressed": "mean absolute error, expressed genes",
    "mre_expressed": "mean relative error, expressed genes",
    "pearson": "Pearson's r over genes",
    "pearson_expressed": "Pearson's r over expressed genes",
    "gene_pearson": "Pearson's r over cells, by gene",
    "nmi": "NMI of clusters and types",
    "ari": "ARI of clusters and types",
    "silhouette": "silhouette of types",
}
SHORT = {
    "mae": "MAE",
    "mae_expressed": "MAE, expr.",
    "mre_expressed": "MRE, expr.",
    "pearson": "r",
    "pearson_expressed": "r, expr.",
    "gene_pearson": "r by gene",
    "nmi": "NMI",
    "ari": "ARI",
    "silhouette": "silhouette",
}
"""Of headings; WORDS says what they mean."""


def depth_curves(scores: pd.DataFrame, metric: str, *, ax: Axes | None = None, legend: bool = True) -> Axes:
    """Draw a score against the share of counts that was kept, a line for each way; bars are one standard deviation.

    Parameters
    ----------
    scores
        Columns ``share``, ``seed``, ``model`` and the metric.
    metric
        Which.
    ax
        Where; None makes a figure.
    legend
        Name the lines.

    Returns
    -------
    The axis.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots(layout="constrained")[1]
    there = scores.dropna(subset=[metric])
    ways = list(
        dict.fromkeys(scores["model"])
    )  # a way has its colour in every picture, also where others have no score
    for i, (model, rows) in enumerate(there.groupby("model", sort=False)):
        grouped = rows.groupby("share")[metric]
        mean, deviation = grouped.mean(), grouped.std().fillna(0)
        ax.errorbar(
            100 * mean.index.to_numpy(dtype=float),
            mean.to_numpy(),
            yerr=deviation.to_numpy(),
            marker="o",
            markersize=4,
            linewidth=2.2 if i == 0 else 1.2,
            color=f"C{ways.index(model) % 10}",
            label=str(model),
            zorder=10 - i,
        )
    shares = sorted(there["share"].unique())
    ax.set_xscale("log")
    ax.set_xticks([100 * share for share in shares], [f"{share:.0%}" for share in shares])
    ax.minorticks_off()
    ax.set_xlabel("counts kept")
    ax.set_ylabel(WORDS.get(metric, metric))
    ax.spines[["top", "right"]].set_visible(False)
    if legend:
        ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.02, 0.5))
    return ax
