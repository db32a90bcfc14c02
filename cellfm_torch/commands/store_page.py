"""The quality-control page of a prepared store: one HTML file with its pictures inside.

Shapes: S sources.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellfm_torch.data.store import Store
from cellfm_torch.data.store_quality import EDGES, dense, quantile
from cellfm_torch.files import write_text
from cellfm_torch.plots.cells import PALETTE
from cellfm_torch.report import page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 500
"""Sources listed one by one."""

MOST_BARS = 25
"""Sources with a bar of their own."""

LOW_KEPT = 0.8
"""Share of counts in genes of the store below which a source is marked."""

TITLES = {
    "counts": "Counts per cell",
    "genes": "Expressed genes per cell",
    "mito": "Mitochondrial counts (%)",
}


def write_page(store: Store, path: Path | None = None) -> Path:
    """Write the page, by default to ``qc.html`` in the store."""
    path = store.path / "qc.html" if path is None else path
    write_text(path, render(store))
    return path


def render(store: Store) -> str:
    """Return the page as HTML that needs no other file."""
    cells = sum(source["cells"] for source in store.sources)
    read = sum(source["report"]["cells_read"] for source in store.sources)
    counts = {kind: sum(s["quality"][f"counts_{kind}"] for s in store.sources) for kind in ("read", "kept")}
    size = sum(shard["bytes"] for source in store.sources for shard in source["shards"])
    summary = [
        ("Cells", f"{cells:,} of {read:,}; the others did not pass the filters"),
        ("Files", f"{len(store.sources):,}"),
        ("Genes of the store", f"{len(store.genes):,}"),
        ("Counts kept", f"{counts['kept'] / max(counts['read'], 1):.1%}; the others are in genes that no model knows"),
        ("Size", f"{size / 1e6:,.1f} MB, {size / max(cells, 1):.0f} bytes per cell"),
        ("Made with", store.header["tool"]),
    ]
    return page.page(
        f"Quality control: {store.path.name}",
        f"{page.summary(summary)}\n<h2>All cells</h2>\n<figure>{_histograms(store)}</figure>\n"
        f"<h2>Files</h2>\n<figure>{_sources(store)}</figure>\n{_table(store)}",
    )


def _panels(width: float, height: float) -> tuple[Any, Any]:
    figure = page.empty_figure(width, height)
    return figure, figure.subplots(1, 3, squeeze=False)[0]


def _histograms(store: Store) -> str:
    figure, axes = _panels(11, 3.2)
    for ax, (name, edges) in zip(axes, EDGES.items(), strict=True):
        total = np.sum([dense(name, source["quality"][name]["histogram"]) for source in store.sources], axis=0)
        median = quantile(name, total, 0.5)
        values = edges if name == "mito" else 10.0**edges
        filled = np.flatnonzero(total)
        shown = slice(max(filled[0] - 1, 0), filled[-1] + 2) if len(filled) else slice(None)
        ax.stairs(total[shown], values[shown.start : shown.start + len(total[shown]) + 1], fill=True, color=PALETTE[0])
        ax.axvline(median, color=PALETTE[5], linewidth=1.2)
        ax.set_title(f"{TITLES[name]}: median {median:,.{1 if name == 'mito' else 0}f}")
        if name != "mito":
            ax.set_xscale("log")
        _plain(ax, "cells" if name == "counts" else "")
    return page.svg(figure)


def _sources(store: Store) -> str:
    """Bars where there are few sources, histograms over sources where there are many."""
    number = np.array([source["cells"] for source in store.sources])
    genes = np.array([source["quality"]["genes"]["median"] for source in store.sources])
    kept = np.array([_kept(source) for source in store.sources]) * 100
    panels = (("Cells", number), ("Median genes per cell", genes), ("Counts kept (%)", kept))
    few = len(number) <= MOST_BARS
    figure, axes = _panels(11, max(1.6, 0.32 * len(number) + 1) if few else 3.2)
    names = [source["source"].rsplit("/", 1)[-1] for source in store.sources]
    for i, (ax, (title, values)) in enumerate(zip(axes, panels, strict=True)):
        ax.set_title(title)
        if few:
            ax.barh(np.arange(len(values)), values, color=PALETTE[2], height=0.7)
            ax.set_yticks(np.arange(len(values)), [name[:28] for name in names] if i == 0 else [""] * len(values))
            ax.invert_yaxis()
            if i == 2:
                ax.set_xlim(0, 100)
            _plain(ax, "")
        else:
            ax.hist(values, bins=40, color=PALETTE[2])
            _plain(ax, "files" if i == 0 else "")
    return page.svg(figure)


def _plain(ax: Axes, label: str) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_ylabel(label)


def _kept(source: dict[str, Any]) -> float:
    quality = source["quality"]
    return float(quality["counts_kept"] / max(quality["counts_read"], 1))


def _table(store: Store) -> str:
    headings = ("File", "Cells", "of", "Genes matched", "of", "Counts kept", "Median counts", "Median genes", "Mito %")
    # The worst first: these are the ones to look at.
    order = sorted(store.sources, key=_kept)[:MOST_ROWS]
    rows, marked = [], []
    for source in order:
        quality, report, kept = source["quality"], source["report"], _kept(source)
        marked.append(kept < LOW_KEPT)
        rows.append(
            (
                source["source"],
                f"{source['cells']:,}",
                f"{report['cells_read']:,}",
                f"{report['genes_matched']:,}",
                f"{report['genes_read']:,}",
                f"{kept:.1%}",
                f"{quality['counts']['median']:,.0f}",
                f"{quality['genes']['median']:,.0f}",
                f"{quality['mito']['median']:.1f}",
            )
        )
    note = f"Sorted by counts kept; marked where less than {LOW_KEPT:.0%} of the counts are in genes of the store."
    if len(order) < len(store.sources):
        note += f" The first {len(order):,} of {len(store.sources):,} files."
    warnings = [warning for source in order for warning in source["report"]["warnings"]]
    listed = "".join(f"<li>{html.escape(warning)}</li>" for warning in warnings)
    return f"{page.note(note)}{page.table(headings, rows, marked=marked)}{f'<ul>{listed}</ul>' if listed else ''}"
