"""In-silico edits of genes: ``cellfm genes whatif CELLS --model FOLDER``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app

SHOWN = 10


def run(cfg: Any) -> int:
    """Run one job from a composed configuration; returns the exit code.

    Raises
    ------
    UserError
        For what the user can put right.
    """
    from omegaconf import OmegaConf
    from rich.console import Console

    from cellfm_torch.commands.lists import gene_names
    from cellfm_torch.commands.outputs import results_folder, write_settings, write_table
    from cellfm_torch.data.files import one_file
    from cellfm_torch.gene_tasks.whatif import what_if

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    settings = dict(options)
    cells, model = one_file(options.pop("cells")), options.pop("model_folder")
    results = results_folder(options.pop("results"), overwrite=options["overwrite"])
    genes, keep = gene_names(options.pop("gene_list")), results / "parts"
    reading = options.pop("data") | {"genes": options.pop("genes")}
    try:
        found = what_if(model, cells, gene_list=genes, keep=keep, **options, **reading)
    except KeyboardInterrupt:
        return hydra_app.interrupted(keep)
    write_table(found.table, results / "genes.csv")
    write_table(found.edits, results / "edits.csv")
    write_settings(settings, results)
    shutil.rmtree(keep, ignore_errors=True)
    console = Console()
    console.print(_table(found))
    _draw(found, results)
    answer(results=results, edits=len(found.edits), genes=len(found.table))
    console.print(f"results: {results}: genes.csv, edits.csv, genes.png, .pdf", highlight=False, soft_wrap=True)
    return 0


def _table(found: Any) -> Any:
    from rich.table import Table

    tested = found.table["z"].notna()
    caption = (
        "shift: geometric mean of 1 - cosine between a cell's embeddings. null: that of other genes edited in the same "
        "cells, of expression near the gene's own. z, FDR: against permutations."
    )
    if not tested.all():
        caption += f" Not shown: {(~tested).sum()} edited in fewer than 3 cells of their group."
    title = f"Genes that move the embedding of cells: {found.edit}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, caption=caption, caption_justify="left")
    for heading in ("group", "gene"):
        table.add_column(heading, no_wrap=True)
    for heading in ("cells", "shift", "null", "z", "FDR"):
        table.add_column(heading, justify="right")
    for group, rows in found.table.groupby("group", sort=False):
        for i, row in enumerate(rows.dropna(subset="z").head(SHOWN).itertuples()):
            figures = (f"{row.cells}", f"{row.shift:.2e}", f"{row.null:.2e}", f"{row.z:.1f}", f"{row.fdr:.3f}")
            table.add_row(str(group) if i == 0 else "", row.gene, *figures)
        if rows["z"].isna().all():
            table.add_row(str(group), "none")
    return table


def _draw(found: Any, results: Path) -> None:
    from matplotlib.figure import Figure

    from cellfm_torch.plots.cells import save_figure
    from cellfm_torch.plots.gene_shifts import gene_shifts

    groups = list(dict.fromkeys(found.table["group"]))
    figure = Figure(figsize=(5.5 * min(len(groups), 3), 3.4 * -(-len(groups) // 3)), layout="constrained")
    axes = figure.subplots(-(-len(groups) // 3), min(len(groups), 3), squeeze=False).ravel()
    for ax in axes[len(groups) :]:
        ax.set_axis_off()
    for ax, group in zip(axes, groups, strict=False):
        gene_shifts(found.table[found.table["group"] == group], ax=ax, title=f"{group}: {found.edit}")
    for kind in ("png", "pdf"):
        save_figure(figure, results / f"genes.{kind}")


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/genes_whatif.yaml with overrides (default: the command line's) and run it."""
    return hydra_app.run(run, config="genes_whatif", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
