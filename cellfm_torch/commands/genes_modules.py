"""Modules of genes: ``cellfm genes modules GENES.h5ad|CELLS --model FOLDER``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app

MARK = "cellfm_genes"
"""Key of uns that says that the observations of a file are genes."""


def run(cfg: Any) -> int:
    """Run one job from a composed configuration; returns the exit code.

    Raises
    ------
    UserError
        For what the user can put right; nothing has been written then.
    """
    import shutil

    from omegaconf import OmegaConf
    from rich.console import Console

    from cellfm_torch.commands.lists import whole_numbers
    from cellfm_torch.commands.outputs import results_folder
    from cellfm_torch.gene_tasks.modules import gene_modules

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    options["seeds"] = whole_numbers(options["seeds"], "seeds")
    options["resolutions"] = _numbers(options["resolutions"])
    settings = dict(options)
    results = results_folder(options.pop("results"), overwrite=options["overwrite"])
    reading = options.pop("data") | {"genes": options.pop("genes")}
    networks = options.pop("networks")
    keep = results / "parts"
    try:
        genes, cells, source = _read(options, reading, keep)
        found = gene_modules(genes, cells, source=source, **options, **reading)
    except KeyboardInterrupt:
        return hydra_app.interrupted(keep)
    console = Console()
    says = _says(found)
    for line in says:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    overview = found.overview()
    # Without sets nothing was tested.
    untested = [] if "enriched" in found.comparison else ["enriched", "first", "fdr"]
    console.print(_table(overview.drop(columns=untested)))
    console.print(_table(found.comparison))
    _save(found, settings, results, says, networks)
    shutil.rmtree(keep, ignore_errors=True)
    answer(results=results, modules=overview, comparison=found.comparison)
    console.print(f"results: {results}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _numbers(given: Any) -> list[float]:
    from cellfm_torch.commands.lists import listed
    from cellfm_torch.errors import UserError

    try:
        return [float(value) for value in listed(given)]
    except (TypeError, ValueError):
        raise UserError(f"resolutions={given}: give one or more numbers above 0: resolutions=[0.5,1]") from None


def _read(options: dict[str, Any], reading: dict[str, Any], keep: Path) -> tuple[Any, Any, str]:
    """Return genes, cells (or None) and the name of the file; takes what it uses out of the options."""
    from cellfm_torch.data.files import one_file
    from cellfm_torch.errors import UserError
    from cellfm_torch.gene_tasks.embeddings import gene_embeddings
    from cellfm_torch.gene_tasks.embeddings.table import read_genes

    path = one_file(options.pop("given"))
    folder, cells = options.pop("model_folder"), options.pop("cells")
    computing = {name: options.pop(name) for name in ("accelerator", "overwrite")}
    if _is_genes(path):
        return read_genes(path), cells, str(path)
    if cells is not None:
        raise UserError(f"{path} holds no genes of cellfm genes embed, and cells={cells} are given besides: give one")
    if folder is None:
        raise UserError(f"{path} holds no genes of cellfm genes embed: where it holds cells, give --model FOLDER too")
    if options["sets"] is not None and not Path(options["sets"]).expanduser().is_file():
        raise UserError(f"{options['sets']}: no such file of gene sets")  # before the cells are encoded
    return gene_embeddings(folder, path, keep=keep, **computing, **reading), path, str(path)


def _is_genes(path: Path) -> bool:
    import h5py

    from cellfm_torch.data.sources.damage import damage_named

    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with damage_named(path), h5py.File(path, "r") as file:
        return MARK in file.get("uns", {})


def _says(found: Any) -> list[str]:
    """Say what was chosen and how it compares."""
    own = found.comparison.iloc[0]
    lines = [
        f"{found.genes.n_obs:,} genes clustered by obsm['{found.key}']: {own['modules']} modules at resolution "
        f"{own['resolution']:g}, the most stable (adjusted Rand index {own['stability_seeds']:.2f} between seeds, "
        f"{own['stability_edges']:.2f} between draws of the edges)"
    ]
    for row in found.comparison.iloc[1:].itertuples():
        more = "more" if own["stability"] > row.stability else "less"
        line = f"{own['features']} is {more} stable than {row.features} ({own['stability']:.2f}, {row.stability:.2f})"
        if "enriched" in found.comparison:
            line += f"; with an enriched set: {own['enriched']} of {own['modules']}, {row.enriched} of {row.modules}"
        lines.append(line)
    return lines


def _save(found: Any, settings: dict[str, Any], results: Path, says: list[str], networks: int) -> None:
    from matplotlib.figure import Figure

    from cellfm_torch.commands.outputs import write_genes, write_settings, write_table
    from cellfm_torch.files import write_text
    from cellfm_torch.plots.cells import save_figure
    from cellfm_torch.plots.gene_modules import activity_heat_map, gene_network
    from cellfm_torch.report.modules import render_modules

    write_genes(found.genes, results / "genes.h5ad")
    overview, members = found.overview(), found.genes.obs[["module"]].reset_index(names="gene")
    for name, table in (
        ("modules", overview),
        ("members", members.dropna().sort_values("module", kind="stable")),
        ("enrichment", found.enrichment),
        ("resolutions", found.resolutions),
        ("comparison", found.comparison),
    ):
        write_table(table, results / f"{name}.csv")
    if found.cells is not None:
        write_genes(found.cells, results / "cells.h5ad")
    if found.activity is not None:
        write_table(found.activity.reset_index(), results / "activity.csv")
        figure = Figure(
            figsize=(2.4 + 0.5 * found.activity.shape[1], 1.8 + 0.28 * len(found.activity)), layout="constrained"
        )
        activity_heat_map(found.activity, ax=figure.add_subplot(), title="Activity of modules")
        save_figure(figure, results / "activity.png")
    edges = {name: found.edges(name) for name in _drawn(overview, networks)}
    if edges:
        columns = min(len(edges), 3)
        lines = -(-len(edges) // columns)
        figure = Figure(figsize=(4.8 * columns, 4.4 * lines), layout="constrained")
        for i, (name, table) in enumerate(edges.items()):
            gene_network(table, ax=figure.add_subplot(lines, columns, i + 1), title=name)
        save_figure(figure, results / "networks.png")
    facts = [(name, json.dumps(value)) for name, value in settings.items()]
    html = render_modules(
        title="Modules of genes",
        overview=overview,
        enrichment=found.enrichment,
        comparison=found.comparison,
        resolutions=found.resolutions,
        activity=found.activity,
        networks=edges,
        says=says,
        facts=facts,
    )
    write_text(results / "report.html", html)
    write_settings(settings | {"says": says}, results)


def _drawn(overview: Any, number: int) -> list[str]:
    """Return the modules to draw: those enriched most surely first."""
    order = overview.sort_values(["fdr", "genes"], ascending=[True, False], kind="stable", na_position="last")
    return list(order["module"][:number])


def _table(frame: Any) -> Any:
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    words = {"module", "first", "active_in", "features"}
    short = {"stability_seeds": "ARI seeds", "stability_edges": "ARI edges", "stability": "mean ARI"}
    frame = frame.drop(columns="share_enriched", errors="ignore")
    for name in frame:
        shown.add_column(short.get(name, name.replace("_", " ")), justify="left" if name in words else "right")
    for row in frame.to_dict("records"):
        shown.add_row(*(_word(value, ".3f" if name in short else ".3g") for name, value in row.items()))
    return shown


def _word(value: Any, digits: str) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:{digits}}"
    return str(value)


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/genes_modules.yaml with overrides (default: the command line's) and run it."""
    return hydra_app.run(run, config="genes_modules", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
