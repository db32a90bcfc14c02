"""Integrate the batches of one file: ``cellfm integrate CELLS.h5ad --batch COLUMN --model FOLDER``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch import __version__
from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app
from cellfm_torch.quiet import quiet_lightning

ZERO_SHOT = "CellFM, zero-shot"
FINE_TUNED = "CellFM, fine-tuned"


@quiet_lightning()
def integrate(cfg: Any) -> int:
    """Run one job from a composed configuration; returns the exit code.

    Raises
    ------
    UserError
        For what the user can put right.
    """
    import numpy as np
    from rich.console import Console

    from cellfm_torch.analysis.batch_methods import check_baselines, missing, score_beside
    from cellfm_torch.analysis.columns import EMBEDDING, column, counts_of, finite_rows
    from cellfm_torch.analysis.integration import chosen_scorer
    from cellfm_torch.commands import cells as files
    from cellfm_torch.commands.fine_tuning import FineTuning
    from cellfm_torch.commands.interrupt import Stopped
    from cellfm_torch.commands.outputs import beside, new_file
    from cellfm_torch.data.files import one_file
    from cellfm_torch.errors import UserError
    from cellfm_torch.ops.backend import set_backend

    set_backend(cfg.backend)
    if cfg.method not in ("zero-shot", "finetune"):
        raise UserError(f"method={cfg.method}: choose zero-shot or finetune")
    scorer = chosen_scorer(cfg.scorer)
    check_baselines(cfg.baselines)
    path = one_file(cfg.cells)
    output = new_file(cfg.output, f"{path.stem}_integrated.h5ad", ".h5ad", overwrite=cfg.overwrite, source=path)
    adata = files.read_cells(path)
    batches = column(adata, cfg.batch, "batch", path.name)
    if len(set(batches)) < 2:
        raise UserError(f"batch={cfg.batch}: all cells of {path.name} are of '{batches[0]}'; nothing to integrate")
    labels = None if cfg.label is None else column(adata, cfg.label, "label", path.name, gaps=True)
    if labels is not None and len(set(labels) - {None}) < 2:
        raise UserError(f"label={cfg.label}: {path.name} has fewer than two types of cells; scores need two")
    # What is wrong with its options shows before any work.
    tuning = FineTuning(cfg, path, output) if cfg.method == "finetune" else None
    reading = files.reading_of(cfg)
    console = Console()
    embeddings = {}
    if tuning is not None:  # first: where it was interrupted it goes on at once
        try:
            losses = tuning.run(adata, console)
        except Stopped as stop:
            console.print(f"{stop}, which is saved: the same command goes on", highlight=False)
            return stop.exit_code
        tuning.task.network.save_pretrained(folder := beside(output, "model"))
        console.print(f"model:  {folder} ({losses})", highlight=False, soft_wrap=True)
    if tuning is None or labels is not None:
        embeddings[ZERO_SHOT] = files.embed(adata, cfg.model_folder, path.name, **reading)
    if tuning is not None:  # last: this one is kept in the file
        embeddings[FINE_TUNED] = files.embed(adata, str(folder), path.name, verbose=labels is None, **reading)
    finite = finite_rows(adata.obsm[EMBEDDING], path.name)
    settings = {
        "command": "integrate",
        "version": __version__,
        "model": str(cfg.model_folder),
        "method": cfg.method,
        "batch": cfg.batch,
        "seed": cfg.seed,
    }
    if tuning is not None:
        settings["recipe"] = {"epochs": cfg.trainer.max_epochs, "lr": cfg.optim.lr, "task": dict(cfg.task)}
    table = None
    if labels is None:
        console.print("no scores: they need cell types, --label COLUMN")
    else:
        scored = finite & np.array([label is not None for label in labels])
        shown = {name: x[scored] for name, x in embeddings.items()}
        counts = counts_of(adata, cfg.data.layer, path.name)[scored]
        for name, package in missing(cfg.baselines):
            console.print(f"left out: {name}, which takes pip install {package}", highlight=False)
        with console.status("") as status:
            table = score_beside(
                shown,
                counts,
                labels[scored],
                batches[scored],
                baselines=cfg.baselines,
                scorer=cfg.scorer,
                seed=cfg.seed,
                say=status.update,
            )
        settings["scores"] = {"scorer": scorer, "cells": int(scored.sum()), "table": table.to_dict("index")}
        _save_table(table, output, f"{path.name}: {scored.sum():,} cells, {len(set(batches))} batches")
        _say(console, table)
    adata.uns["cellfm_integrate"] = json.dumps(settings, default=str)
    files.write_cells(adata, output)
    if tuning is not None:
        tuning.remove()
    answer(output=output, scores=[] if table is None else table.reset_index(names="method"))
    _next_steps(console, output, table is not None)
    return 0


def _save_table(table: Any, output: Path, title: str) -> None:
    from matplotlib.figure import Figure

    from cellfm_torch.analysis.integration import NAMES
    from cellfm_torch.commands.outputs import beside
    from cellfm_torch.files import write_text
    from cellfm_torch.plots.cells import save_figure
    from cellfm_torch.plots.scores import score_table

    write_text(beside(output, "scores.csv"), table.to_csv(index_label="method", float_format="%.4f"))
    figure = Figure(figsize=(2.2 + 1.05 * table.shape[1], 1.2 + 0.42 * len(table)), layout="constrained")
    score_table(table.rename(columns=NAMES), ax=figure.add_subplot(), title=title)
    for kind in ("png", "pdf"):
        save_figure(figure, beside(output, f"scores.{kind}"))


def _say(console: Any, table: Any) -> None:
    from rich.table import Table

    from cellfm_torch.analysis.integration import NAMES

    shown = Table(title="Scores, 1 the best", title_justify="left")
    shown.add_column("", no_wrap=True)
    for method in table.index:
        shown.add_column(str(method), justify="right")
    for name in table.columns:
        shown.add_row(NAMES[name], *(f"{value:.3f}" for value in table[name]))
    console.print(shown)


def _next_steps(console: Any, output: Path, scored: bool) -> None:
    stem = output.with_suffix("")
    scores = f"\nscores: {stem}.scores.csv, .png, .pdf" if scored else ""
    console.print(f"cells:  {output}, obsm['X_cellfm']{scores}", highlight=False, soft_wrap=True)


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/integrate.yaml with overrides (default: the command line's) and integrate."""
    return hydra_app.run(integrate, config="integrate", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
