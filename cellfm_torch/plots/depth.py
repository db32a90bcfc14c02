"""Pictures of read-depth enhancement.

Shapes: none; tables of scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    """Draw a score against the share of counts that was kept, a line for each way, and one standard deviation.

    Of a single share there are no lines to draw: bars instead, with the ways beside them.

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
    # A way has its colour in every picture, also where others have no score.
    ways = dict.fromkeys(scores["model"])
    colours = {way: f"C{i % 10}" for i, way in enumerate(ways)}
    ax.spines[["top", "right"]].set_visible(False)
    if there["share"].nunique() == 1:
        _bars(there.groupby("model", sort=False)[metric], colours, ax)
        ax.set_xlabel(WORDS.get(metric, metric))
        return ax
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
            color=colours[str(model)],
            label=str(model),
            zorder=10 - i,
        )
    shares = sorted(there["share"].unique())
    ax.set_xscale("log")
    ax.set_xticks([100 * share for share in shares], [f"{share:.0%}" for share in shares])
    ax.minorticks_off()
    ax.set_xlabel("counts kept")
    ax.set_ylabel(WORDS.get(metric, metric))
    if legend:
        ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.02, 0.5))
    return ax


def _bars(scores: Any, colours: dict[str, str], ax: Axes) -> None:
    """Draw the mean of each group as a bar, the first on top, with its number."""
    mean, deviation = scores.mean(), scores.std().fillna(0)
    bars = ax.barh(
        mean.index.astype(str),
        mean,
        xerr=deviation.where(deviation > 0),
        color=[colours[str(name)] for name in mean.index],
    )
    ax.bar_label(bars, fmt="%.2f", padding=3, fontsize="small")
    ax.margins(x=0.12)
    ax.invert_yaxis()
