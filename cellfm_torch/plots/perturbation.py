"""Predicted effects of perturbations: scores beside baselines, genes one by one. As in scanpy, ``ax`` in and out.

Shapes: M conditions, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cellfm_torch.errors import UserError
from cellfm_torch.plots.cells import PALETTE, axis_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

WORDS = {
    "mse": "mean squared error",
    "mse_top20": "mean squared error, top 20 genes",
    "pearson_delta": "Pearson of the change",
    "pearson_delta_top20": "Pearson of the change, top 20 genes",
    "direction": "right direction, top 20 genes",
    "discrimination": "discrimination of perturbations",
}
"""What scores are called in pictures and pages; others by their own name."""

SHORT = {
    "mse": "MSE",
    "mse_top20": "MSE, top 20",
    "pearson_delta": "Pearson",
    "pearson_delta_top20": "Pearson, top 20",
}
"""The same for headings of tables."""

BASELINE_COLOURS = ("#BBBBBB", "#8C8C8C", PALETTE[1], PALETTE[4], PALETTE[2], PALETTE[3])


def score_bars(
    summary: pd.DataFrame,
    metric: str = "pearson_delta",
    *,
    model: str | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    legend: bool = True,
) -> Axes:
    """Draw one score of a model beside the baselines, a cluster of bars per group of test conditions.

    Parameters
    ----------
    summary
        Columns ``model``, ``group``, ``metric``, ``mean`` and ``sd``.
    metric
        Which score.
    model
        Drawn first and in blue; None: the first of the table.

    Raises
    ------
    UserError
        If the table lacks a column or the score.
    """
    missing = [name for name in ("model", "group", "metric", "mean", "sd") if name not in summary]
    rows = summary[summary["metric"] == metric] if not missing else summary
    if missing or rows.empty:
        raise UserError(f"score bars: the table lacks {', '.join(missing) or metric}")
    groups = list(dict.fromkeys(rows["group"]))
    models = list(dict.fromkeys(rows["model"]))
    first = models[0] if model is None else model
    models.sort(key=lambda name: name != first)
    ax = axis_of(ax, (2.2 + 1.25 * len(groups), 3.2))
    width = 0.82 / len(models)
    for i, name in enumerate(models):
        part = rows[rows["model"] == name].set_index("group").reindex(groups)
        at = np.arange(len(groups)) + (i - (len(models) - 1) / 2) * width
        colour = PALETTE[0] if name == first else BASELINE_COLOURS[(i - 1) % len(BASELINE_COLOURS)]
        spread = np.nan_to_num(part["sd"].to_numpy(dtype=float))
        ax.bar(at, part["mean"].to_numpy(dtype=float), width=0.92 * width, color=colour, label=name)
        there = spread > 0
        values = part["mean"].to_numpy(dtype=float)
        ax.errorbar(
            at[there], values[there], yerr=spread[there], fmt="none", ecolor="0.25", elinewidth=0.8, capsize=1.5
        )
    ax.axhline(0, color="0.4", linewidth=0.6)
    ax.set_xticks(range(len(groups)), groups, fontsize=8)
    ax.tick_params(axis="x", length=0)
    ax.tick_params(axis="y", labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    if legend:
        ax.legend(frameon=False, fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    ax.set_title(WORDS.get(metric, metric) if title is None else title, loc="left", fontsize=9)
    return ax


def effect_scatter(
    predicted: Any,
    true: Any,
    genes: Sequence[str],
    *,
    marked: Sequence[int] = (),
    ax: Axes | None = None,
    title: str | None = None,
    labels: int = 8,
) -> Axes:
    """Draw the predicted against the measured change of each gene; on the line they are equal.

    Parameters
    ----------
    predicted, true : (G,)
        Difference of mean log1p(CP10K) from control.
    genes : G
        Symbols.
    marked
        Genes in colour, most marked first, such as the 20 most differentially expressed.
    labels
        How many of these are named.
    """
    x, y = np.asarray(true, dtype=float), np.asarray(predicted, dtype=float)
    chosen = np.asarray(list(marked), dtype=int)
    rest = np.setdiff1d(np.arange(len(x)), chosen)
    ax = axis_of(ax, (3.4, 3.2))
    # Thousands of dots weigh megabytes as vectors.
    ax.scatter(x[rest], y[rest], s=4, c="0.75", linewidths=0, rasterized=True)
    ax.scatter(x[chosen], y[chosen], s=14, c=PALETTE[5], linewidths=0)
    ends = np.array([min(x.min(), y.min(), 0), max(x.max(), y.max(), 0)]) if len(x) else np.zeros(2)
    room = 0.08 * max(float(ends[1] - ends[0]), 1e-3)
    ends = ends + np.array([-room, room])
    ax.plot(ends, ends, "--", color="0.5", linewidth=0.8)
    ax.axhline(0, color="0.85", linewidth=0.6, zorder=0)
    ax.axvline(0, color="0.85", linewidth=0.6, zorder=0)
    _named(ax, x[chosen[:labels]], y[chosen[:labels]], [genes[i] for i in chosen[:labels]], ends)
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    ax.set_xlabel("measured change", fontsize=8)
    ax.set_ylabel("predicted change", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(title, loc="left", fontsize=9)
    return ax


def _named(ax: Axes, x: Any, y: Any, names: Sequence[str], ends: Any) -> None:
    """Write names towards the middle, with a line to the dot, moved apart in height where they would cover others."""
    step, middle = 0.055 * float(ends[1] - ends[0]), float(ends[1] + ends[0]) / 2
    line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.4, "shrinkA": 0, "shrinkB": 1.5}
    for right in (True, False):
        side = np.flatnonzero((x > middle) == right)
        side = side[np.argsort(y[side], kind="stable")]
        heights = y[side].astype(float)
        for i in range(1, len(side)):
            heights[i] = max(heights[i], heights[i - 1] + step)
        if len(side):
            heights -= (heights - y[side]).mean()
        for at, height in zip(side, heights, strict=True):
            i = int(at)
            ax.annotate(
                names[i],
                (x[i], y[i]),
                xytext=(float(x[i]) + (-1.5 if right else 1.5) * step, float(height)),
                textcoords="data",
                fontsize=6.5,
                va="center",
                ha="right" if right else "left",
                arrowprops=line,
            )


def delta_heat_map(
    predicted: Any,
    true: Any,
    conditions: Sequence[str],
    genes: Sequence[str],
    *,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw changes of genes (columns) under conditions (pairs of rows: measured above predicted), red up, blue down.

    Parameters
    ----------
    predicted, true : (M, G)
        Difference of mean log1p(CP10K) from control.
    conditions : M
    genes : G

    Raises
    ------
    UserError
        If there is nothing to draw.
    """
    x, y = np.asarray(true, dtype=float), np.asarray(predicted, dtype=float)
    if x.size == 0:
        raise UserError("heat map: there is no condition or no gene to draw")
    number, columns = x.shape
    # An empty line between pairs.
    rows = np.full((3 * number - 1, columns), np.nan)
    rows[0::3], rows[1::3] = x, y
    ax = axis_of(ax, (2.2 + 0.17 * columns, 1.4 + 0.42 * number))
    limit = max(float(np.nanmax(np.abs(rows))), 1e-9)
    image = ax.imshow(rows, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    at = np.arange(number) * 3
    ticks = np.stack([at, at + 1], axis=1).ravel()
    ax.set_yticks(ticks, [word for name in conditions for word in (f"{name}  measured", "predicted")], fontsize=7)
    ax.set_xticks(range(columns), list(genes), rotation=90, fontsize=6 if columns <= 60 else 4)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    colours = ax.figure.colorbar(image, ax=ax, shrink=0.7, pad=0.01)
    colours.set_label("change of log1p(CP10K)", fontsize=7)
    colours.ax.tick_params(labelsize=7)
    if title:
        ax.set_title(title, loc="left", fontsize=9)
    return ax
