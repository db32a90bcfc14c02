"""Pictures: UMAP of cells, loss curve of a run. Functions take ``ax=None`` and return the axis, as in scanpy.

Matplotlib, umap-learn and pandas are imported where they are used, so that importing this module is free.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellfm_torch.errors import UserError
from cellfm_torch.files import written_beside

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#5D3A9B", "#B8A100", "#7A2E1D", "#444444")
"""Ten colours that colour-blind readers tell apart (Okabe and Ito's, extended); after ten the marker changes too."""

NO_LABEL = frozenset({"", "nan", "none", "<na>", "unknown", "unlabelled", "unlabeled", "unassigned", "not labelled"})
"""Labels drawn in grey, beneath the others."""


def save_figure(fig: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, PDF or SVG (by its suffix), 150 dots per inch, beside and renamed.

    Raises
    ------
    UserError
        If matplotlib cannot write files with this suffix.
    """
    kind = Path(path).suffix.lstrip(".").lower()
    if kind not in fig.canvas.get_supported_filetypes():
        raise UserError(f"cannot draw '{path}': unknown kind '.{kind}'; use .png, .pdf or .svg")
    with written_beside(path) as part:
        fig.savefig(part, dpi=150, format=kind, facecolor="white")
    return Path(path)


def umap_coordinates(embedding: Any, seed: int = 0, *, n_neighbors: int = 15) -> np.ndarray:
    """Lay cells out in the plane with UMAP; the same numbers give the same picture.

    Parameters
    ----------
    embedding : (B, C)
        One row per cell. Not standardised: the distances are those of the model.
    seed
        Random state of UMAP.
    n_neighbors
        Nearest by Euclidean distance, the cell itself among them, as in umap-learn and scanpy; fewer where there are
        not so many cells.

    Returns
    -------
    (B, 2) float32 array. For fewer than 5 cells, where UMAP is undefined, the first two principal components.

    Raises
    ------
    UserError
        If the embedding is empty, not two-dimensional or not finite, or umap-learn is missing.
    """
    x = np.asarray(embedding, dtype=np.float32)
    if x.ndim != 2 or x.size == 0:
        raise UserError(f"UMAP needs an embedding of shape (cells, dimensions), got {x.shape}; give one row per cell")
    bad = np.flatnonzero(~np.isfinite(x).all(1))
    if len(bad):
        raise UserError(
            f"UMAP: {len(bad)} of {len(x)} cells have NaN or infinite values, first row {bad[0]}; drop them"
        )
    if len(x) < 5:
        u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
        return np.pad((u * s)[:, :2], ((0, 0), (0, max(0, 2 - len(s)))))
    from cellfm_torch.analysis.graph import neighbours_and_itself

    with warnings.catch_warnings():
        # umap warns of the Tensorflow it does not need, of its dependencies, and of the single thread we ask for.
        warnings.simplefilter("ignore")
        try:
            import umap
        except ImportError:
            raise UserError("UMAP needs umap-learn, which is not installed: pip install umap-learn") from None
        # A minimal distance of 0.5, scanpy's default, keeps small clusters from shrinking to a dot.
        options = {"min_dist": 0.5, "random_state": seed, "n_jobs": 1}
        near = neighbours_and_itself(x, n_neighbors, seed=seed)
        return umap.UMAP(n_neighbors=near[0].shape[1], precomputed_knn=near, **options).fit_transform(x)


def axis_of(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the axis given, or that of a new figure of `size` in inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def log_ticks(axis: Axis) -> None:
    """Put ticks at 1, 2 and 5 of each power of ten, with plain numbers; Matplotlib's own run into one another."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_formatter=NullFormatter())


def umap_plot(
    coords: Any, labels: Sequence[Any] | None = None, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Scatter cells in the plane, coloured by class (legend with counts) or by a real number (colour bar).

    Parameters
    ----------
    coords : (B, 2)
        Positions, of no unit.
    labels : (B,), optional
        Classes, most frequent first in the legend; missing ones and "unlabelled" in grey. Floats give a colour bar.
    ax
        Where to draw; a new figure of 900 x 675 pixels when None.

    Raises
    ------
    UserError
        If there is not one label per cell.
    """
    import pandas as pd

    xy = np.asarray(coords, dtype=float)
    if labels is not None and len(labels) != len(xy):
        raise UserError(f"UMAP picture: {len(labels)} labels for {len(xy)} cells; give one label per cell")
    ax = axis_of(ax, (6.0, 4.5))
    dots: dict[str, Any] = {"s": float(np.clip(12000 / max(len(xy), 1), 1.5, 28)), "linewidths": 0, "alpha": 0.85}
    values = np.full(len(xy), "", object) if labels is None else np.asarray(labels)
    if labels is None:
        ax.scatter(*xy.T, color=PALETTE[0], **dots)
    elif np.issubdtype(values.dtype, np.floating):
        ax.figure.colorbar(ax.scatter(xy[:, 0], xy[:, 1], c=values, cmap="viridis", **dots), ax=ax, shrink=0.6)
    else:
        names = np.array(["not labelled" if pd.isna(v) else str(v) for v in values.tolist()], dtype=object)
        counts = pd.Series(names).value_counts(sort=False).sort_index().sort_values(ascending=False, kind="stable")
        grey = [name for name in counts.index if name.lower() in NO_LABEL]
        classes = [name for name in counts.index if name not in grey]
        for depth, name in enumerate([*grey, *classes]):  # rare classes lie on top of frequent ones
            place, cells = depth - len(grey), xy[names == name]
            colour = "#C8C8C8" if place < 0 else PALETTE[place % len(PALETTE)]
            marker = "o" if place < 0 else "o^sDv"[place // len(PALETTE) % 5]
            ax.scatter(*cells.T, color=colour, marker=marker, label=f"{name} ({counts[name]:,})", zorder=2, **dots)
        handles, texts = ax.get_legend_handles_labels()
        order = [*range(len(grey), len(handles)), *range(len(grey))]
        look: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "frameon": False}
        look |= {"fontsize": 9 if len(order) <= 20 else 7, "ncols": 1 + (len(order) - 1) // 28, "handletextpad": 0.3}
        legend = ax.legend([handles[i] for i in order], [texts[i] for i in order], **look)
        for handle in legend.legend_handles:
            handle.set(sizes=[36], alpha=1)  # type: ignore[union-attr]
    ax.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(title, fontsize=11, loc="left")
    return ax


def loss_curve(
    history: pd.DataFrame,
    ax: Axes | None = None,
    baselines: Mapping[str, float] | None = None,
    *,
    train: str = "train_loss",
    val: str = "val_loss",
) -> Axes:
    """Draw training loss (raw, faint, and smoothed), validation loss and what simple predictors reach.

    Parameters
    ----------
    history
        Columns ``step`` and, where logged, `train` and `val`; gaps are NaN (see :func:`read_history`).
    baselines
        Loss of other predictors by name, drawn as dashed lines.
    train, val
        Names of the two columns.

    Raises
    ------
    UserError
        If the history holds neither column.
    """
    seen = {name: history[["step", name]].dropna() for name in (train, val) if name in history}
    if not any(len(curve) for curve in seen.values()):
        raise UserError(f"loss curve: no '{train}' or '{val}' was logged; columns are {', '.join(history.columns)}")
    ax = axis_of(ax, (6.0, 4.0))
    baselines = dict(baselines or {})
    if len(curve := seen.get(train, history.iloc[:0])):
        smooth = curve[train].rolling(window := max(1, len(curve) // 15), center=True, min_periods=1).mean().to_numpy()
        ax.plot(curve["step"], curve[train], color=PALETTE[0], alpha=0.35, linewidth=0.8)
        label = "training" if window == 1 else "training (smoothed)"
        ax.plot(curve["step"], smooth, color=PALETTE[0], linewidth=1.8, label=label)
    if len(curve := seen.get(val, history.iloc[:0])):
        ax.plot(curve["step"], curve[val], color=PALETTE[5], marker="o", markersize=4, label="validation", zorder=4)
    for (name, value), style in zip(baselines.items(), ["--", ":", "-.", (0, (1, 3))] * 9, strict=False):
        ax.axhline(value, color="#555555", linestyle=style, linewidth=1.2, label=f"{name} ({value:.3g})")
    every = np.concatenate([np.array(list(baselines.values())), *(curve[name] for name, curve in seen.items())])
    every = every[np.isfinite(every)]
    if len(every) and every.min() > 0 and every.max() > 20 * every.min():
        ax.set_yscale("log")
        log_ticks(ax.yaxis)
    ax.set(xlabel="step", ylabel="loss")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", alpha=0.25)
    ax.legend(frameon=False, fontsize=9)
    return ax


def read_history(folder: str | Path) -> pd.DataFrame:
    """Read what Lightning's CSVLogger wrote under `folder`, joining the versions of a resumed run.

    Returns
    -------
    DataFrame with one row per step, sorted: ``step``, then every logged column, NaN where not logged. From the first
    step of a later version on, that version's rows replace those of earlier ones.

    Raises
    ------
    UserError
        If no ``metrics.csv`` with a row in it lies under `folder`.
    """
    import pandas as pd

    history: pd.DataFrame | None = None
    files = Path(folder).rglob("metrics.csv")
    for path in sorted(files, key=lambda file: [int(n) for n in re.findall(r"version_(\d+)", str(file))]):
        table = pd.read_csv(path) if path.stat().st_size else pd.DataFrame()
        if "step" not in table or table.empty:
            continue
        # Lightning writes training and validation of one step as two rows.
        table = table.groupby("step", as_index=False).last()
        history = table if history is None else pd.concat([history[history["step"] < table["step"].min()], table])
    if history is None:
        raise UserError(f"no metrics.csv with logged steps under '{folder}'; give the folder of Lightning's CSVLogger")
    return history.sort_values("step", ignore_index=True)
