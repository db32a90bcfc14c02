"""Cell-type-specific genes: ``cellfm genes specific CELLS --by COLUMN --model FOLDER``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app


def run(cfg: Any) -> int:
    """Run one job from a composed configuration; returns the exit code.

    Raises
    ------
    UserError
        For what the user can put right.
    """
    from omegaconf import OmegaConf
    from rich.console import Console

    from cellfm_torch.commands.outputs import results_folder, write_genes, write_settings, write_table
    from cellfm_torch.data.files import one_file
    from cellfm_torch.data.gene_annotation import known_biotypes
    from cellfm_torch.gene_tasks.specificity import specific_genes
    from cellfm_torch.gene_tasks.specificity.result import check_biotype

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    settings = dict(options)
    cells, model = one_file(options.pop("cells")), options.pop("model_folder")
    results = results_folder(options.pop("results"), overwrite=options["overwrite"])
    biotype, top, fdr = options.pop("biotype"), options.pop("top"), options.pop("fdr")
    reading = options.pop("data") | {"genes": options.pop("genes")}
    if biotype is not None:
        check_biotype(biotype, known_biotypes())
    keep = results / "parts"
    try:
        found = specific_genes(model, cells, keep=keep, **options, **reading)
    except KeyboardInterrupt:
        return hydra_app.interrupted(keep)
    write_table(found.table, results / "genes.csv")
    write_table(found.agreement().reset_index(), results / "agreement.csv")
    write_genes(found.cells, results / "cells.h5ad")
    write_settings(settings, results)
    shutil.rmtree(keep, ignore_errors=True)
    console = Console()
    console.print(_table(found, top, biotype=biotype, fdr=fdr))
    drawn = _draw(found, results, top, biotype=biotype, fdr=fdr)
    agreement = found.agreement()
    console.print(
        f"ranks by weight and by expression: Spearman {agreement['spearman'].mean():.2f}, "
        f"{agreement['overlap'].mean():.0%} of the first 100 genes in common (mean over groups)",
        highlight=False,
        soft_wrap=True,
    )
    pictures = ", genes.png, .pdf" if drawn else ""
    files = f"genes.csv, agreement.csv, cells.h5ad{pictures}"
    answer(results=results, groups=agreement.reset_index())
    console.print(f"results: {results}: {files}", highlight=False, soft_wrap=True)
    return 0


def _table(found: Any, top: int, *, biotype: str | None, fdr: float) -> Any:
    from rich.table import Table

    kind = f" of kind {biotype}" if biotype else ""
    title = f"Genes{kind} with more weight for cls in a group than in the rest"
    caption = (
        "weight: mean weight for cls, 1 is a fair share. cells: of the group that express the gene. AUC*: among cells "
        "that express it. AUC+: of expression, log1p(CP10K), instead of weight."
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, caption=caption, caption_justify="left")
    table.add_column("group", no_wrap=True)
    table.add_column("gene", no_wrap=True)
    for heading in ("weight", "rest", "cells", "AUC", "FDR", "AUC*", "AUC+"):
        table.add_column(heading, justify="right")
    for group in dict.fromkeys(found.table["group"]):
        rows = found.top(group, top, biotype=biotype, fdr=fdr)
        if rows.empty:
            table.add_row(group, "none")
        for i, row in enumerate(rows.itertuples()):
            numbers = (row.weight, row.weight_rest, row.auc, row.auc_expressed, row.expression_auc)
            shown = [f"{x:.2f}" if x == x else "-" for x in numbers]
            shown = [*shown[:2], f"{row.expressing}", shown[2], f"{row.fdr:.1e}", *shown[3:]]
            table.add_row(group if i == 0 else "", row.gene, *shown)
    return table


def _draw(found: Any, results: Path, top: int, *, biotype: str | None, fdr: float) -> bool:
    from matplotlib.figure import Figure

    from cellfm_torch.plots.cells import save_figure
    from cellfm_torch.plots.gene_dots import gene_dots

    groups = list(dict.fromkeys(found.table["group"]))
    genes = list(dict.fromkeys(g for x in groups for g in found.top(x, top, biotype=biotype, fdr=fdr)["gene"]))
    if not genes:
        return False
    figure = Figure(figsize=(2.5 + 0.24 * len(genes), 1.8 + 0.3 * len(groups)), layout="constrained")
    gene_dots(found.table, genes, ax=figure.add_subplot())
    for kind in ("png", "pdf"):
        save_figure(figure, results / f"genes.{kind}")
    return True


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/genes_specific.yaml with overrides (default: the command line's) and run it."""
    return hydra_app.run(run, config="genes_specific", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
