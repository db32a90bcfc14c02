"""Cells of which a condition has more: ``cellfm compare CELLS.h5ad --condition COLUMN --donor COLUMN``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app


def compare(cfg: Any) -> int:
    """Run one job from a composed configuration; returns the exit code.

    Raises
    ------
    UserError
        For what the user can put right.
    """
    import numpy as np
    from rich.console import Console

    from cellfm_torch.analysis import comparison
    from cellfm_torch.commands import cells as files
    from cellfm_torch.commands.outputs import new_file
    from cellfm_torch.data.files import one_file
    from cellfm_torch.plots.cells import umap_coordinates

    path = one_file(cfg.cells)
    output = new_file(cfg.output, f"{path.stem}_compared.h5ad", ".h5ad", overwrite=cfg.overwrite, source=path)
    adata = files.read_cells(path)
    # What is wrong with the columns shows before any work.
    comparison.planned(adata, cfg.condition, cfg.donor, cfg.case, cfg.control, path.name)
    files.embed(adata, cfg.model_folder, path.name, **files.reading_of(cfg))
    options = {key: cfg[key] for key in ("condition", "donor", "case", "control", "label", "k", "share", "fdr", "seed")}
    console = Console()
    with console.status("neighbourhoods on the embedding and on PCA ..."):
        made = comparison.compare(adata, layer=cfg.data.layer, source=path.name, **options)
    with console.status("UMAP ..."):
        places = {name: umap_coordinates(one.embedding, seed=cfg.seed) for name, one in made.found.items()}
    coordinates = np.full((adata.n_obs, 2), np.nan, dtype=np.float32)
    coordinates[made.kept] = places["CellFM"]
    adata.obsm["X_umap_cellfm"] = coordinates
    _save(made, places, output)
    files.write_cells(adata, output)
    answer(output=output, hits={name: one.groups for name, one in made.found.items()})
    _say(console, made, output)
    return 0


def _save(made: Any, places: dict[str, Any], output: Path) -> None:
    import pandas as pd
    from matplotlib.figure import Figure

    from cellfm_torch.commands.outputs import beside
    from cellfm_torch.files import write_text
    from cellfm_torch.plots.abundance import abundance_plot
    from cellfm_torch.plots.cells import save_figure

    for kind, frames in (
        ("neighbourhoods", {name: one.tested for name, one in made.found.items()}),
        ("groups", {name: one.groups for name, one in made.found.items()}),
    ):
        filled = {name: frame for name, frame in frames.items() if len(frame)} or frames
        columns = next(iter(filled.values())).columns
        # A column without any value has no type of its own: it is left to the other tables.
        valued = {name: frame.dropna(axis=1, how="all") for name, frame in filled.items()}
        table = pd.concat(valued, names=["embedding"]).reindex(columns=columns).reset_index(level=0)
        write_text(beside(output, f"{kind}.csv"), table.to_csv(index=False, float_format="%.4g"))
    figure = Figure(figsize=(6.0 * len(places), 4.5), layout="constrained")
    for ax, (name, one) in zip(figure.subplots(1, len(places), squeeze=False)[0], made.found.items(), strict=True):
        label = f"log2 odds, {made.case} / {made.control}"
        title = f"{name}: more {made.case} red, less blue"
        abundance_plot(places[name], one.shade, ax=ax, title=title, label=label)
    for ending in ("png", "pdf"):
        save_figure(figure, beside(output, f"umap.{ending}"))


def _say(console: Any, made: Any, output: Path) -> None:
    from rich.table import Table

    for line in made.says:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for name, one in made.found.items():
        if one.groups.empty:
            continue
        shown = Table(title=f"Hits on {name}", title_justify="left")
        for heading in ("type", "", "hits", "cells", "log2 odds", "top genes"):
            shown.add_column(heading, justify="left" if heading in ("type", "", "top genes") else "right")
        for row in one.groups.itertuples():
            numbers = (f"{row.neighbourhoods} of {row.of}", f"{row.cells:,}", f"{row.log2_odds:.2f}")
            shown.add_row(row.type, row.direction, *numbers, row.genes)
        console.print(shown)
    stem = output.with_suffix("")
    console.print(
        f"cells:  {output}, obs['cellfm_enrichment']\nlook:   {stem}.umap.png, .pdf\n"
        f"tables: {stem}.groups.csv, {stem}.neighbourhoods.csv",
        highlight=False,
        soft_wrap=True,
    )


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/compare.yaml with overrides (default: the command line's) and compare."""
    return hydra_app.run(compare, config="compare", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
