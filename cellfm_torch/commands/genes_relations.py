"""Gene-gene relations: ``cellfm genes relations CELLS --model FOLDER``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app

EDGES_DRAWN = 150


def run(cfg: Any) -> int:
    """Run one job from a composed configuration; returns the exit code.

    Raises
    ------
    UserError
        For what the user can put right.
    """
    import shutil

    from omegaconf import OmegaConf
    from rich.console import Console

    from cellfm_torch.commands.lists import gene_names
    from cellfm_torch.commands.outputs import results_folder, write_settings
    from cellfm_torch.data.files import one_file
    from cellfm_torch.data.gene_sets import read_gmt
    from cellfm_torch.data.genes import GeneVocab
    from cellfm_torch.gene_tasks.relations import gene_relations
    from cellfm_torch.gene_tasks.relations.scoring import score_relations
    from cellfm_torch.model.checkpoint import model_named

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    settings = dict(options)
    cells, model = one_file(options.pop("cells")), options.pop("model_folder")
    results = results_folder(options.pop("results"), overwrite=options["overwrite"])
    edges, sets = options.pop("edges"), options.pop("sets")
    if sets is not None:  # a wrong file is found before the work
        model_named(model)
        read_gmt(sets, GeneVocab.from_file(Path(model).expanduser() / "genes.txt").symbols)
    genes = gene_names(options.pop("gene_list"))
    reading = options.pop("data") | {"genes": options.pop("genes")}
    keep = results / "parts"
    chosen = {name: options[name] for name in ("by", "groups", "least_cells", "most_cells", "seed", "token_budget")}
    try:
        found = gene_relations(model, cells, gene_list=genes, keep=keep, **options, **reading)
        console = Console()
        for group, one in found.items():
            _write(one, results / _file_name(group), edges=edges, seed=options["seed"])
        if sets is not None:
            table = score_relations(model, cells, found, sets, accelerator=options["accelerator"], **chosen, **reading)
            _write_scores(table, results, Path(sets).name)
            _say(console, table)
            answer(scores=table)
    except KeyboardInterrupt:
        return hydra_app.interrupted(keep)
    write_settings(settings, results)
    shutil.rmtree(keep, ignore_errors=True)
    for group, one in found.items():
        first = "; ".join(f"{edge.gene} <- {edge.source}" for edge in one.edges(5).itertuples())
        line = f"{group}: {one.cells:,} cells, {len(one.genes):,} genes, {len(one.layers)} layers; strongest: {first}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    answer(
        results=results, groups={group: {"cells": one.cells, "genes": len(one.genes)} for group, one in found.items()}
    )
    files = "GROUP.h5ad, .edges.csv, .cls.csv, .graphml, .png, .pdf"
    console.print(f"results: {results}: {files}", highlight=False, soft_wrap=True)
    return 0


def _file_name(group: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "+-._" else "_" for letter in group)


def _write(found: Any, stem: Path, *, edges: int, seed: int) -> None:
    import networkx
    from matplotlib.figure import Figure

    from cellfm_torch.commands.outputs import write_genes, write_table
    from cellfm_torch.files import written_beside
    from cellfm_torch.plots.cells import save_figure
    from cellfm_torch.plots.gene_modules import gene_network

    write_genes(found.to_anndata(), stem.with_name(f"{stem.name}.h5ad"))
    write_table(found.edges(edges), stem.with_name(f"{stem.name}.edges.csv"))
    write_table(found.cls.reset_index(), stem.with_name(f"{stem.name}.cls.csv"))
    with written_beside(stem.with_name(f"{stem.name}.graphml")) as part:
        networkx.write_graphml(found.graph(edges), part)
    figure = Figure(figsize=(9, 9), layout="constrained")
    title = f"{found.group}: {EDGES_DRAWN} strongest relations, {found.cells:,} cells"
    drawn = found.edges(EDGES_DRAWN).rename(columns={"source": "a", "gene": "b", "strength": "weight"})
    if len(drawn):
        gene_network(drawn, ax=figure.add_subplot(), title=title, seed=seed)
    for kind in ("png", "pdf"):
        save_figure(figure, stem.with_name(f"{stem.name}.{kind}"))


def _write_scores(table: Any, results: Path, sets: str) -> None:
    from matplotlib.figure import Figure

    from cellfm_torch.commands.outputs import write_table
    from cellfm_torch.plots.cells import save_figure
    from cellfm_torch.plots.gene_scores import ratio_bars

    write_table(table, results / "scores.csv")
    figure = Figure(figsize=(8, 5), layout="constrained")
    title = f"Pairs of genes that share a set of {sets}:\narea under precision and recall, over chance"
    ratio_bars(table, "relation", "aupr_ratio", ax=figure.add_subplot(), title=title)
    for kind in ("png", "pdf"):
        save_figure(figure, results / f"scores.{kind}")


def _say(console: Any, table: Any) -> None:
    from rich.table import Table

    title = f"{table['pairs'].iloc[0]:,} pairs of genes, {table['true_pairs'].iloc[0]:,} share a set; mean over groups"
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    shown.add_column("", no_wrap=True)
    for heading in ("AUPR", "over chance", "early precision", "over chance"):
        shown.add_column(heading, justify="right")
    columns = ["aupr", "aupr_ratio", "early_precision", "early_ratio"]
    for name, row in table.groupby("relation", sort=False)[columns].mean().iterrows():
        aupr, ratio, early, early_ratio = row
        shown.add_row(str(name), f"{aupr:.3f}", f"{ratio:.2f}", f"{early:.3f}", f"{early_ratio:.2f}")
    console.print(shown)


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/genes_relations.yaml with overrides (default: the command line's) and run it."""
    return hydra_app.run(run, config="genes_relations", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
