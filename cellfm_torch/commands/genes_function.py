"""Gene function: ``cellfm genes function --model FOLDER --labels LABELS.csv``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app
from cellfm_torch.quiet import quiet_lightning


@quiet_lightning()
def run(cfg: Any) -> int:
    """Run one job from a composed configuration; returns the exit code.

    Raises
    ------
    UserError
        For what the user can put right; nothing has been written then.
    """
    from omegaconf import OmegaConf
    from rich.console import Console

    from cellfm_torch.commands.lists import listed, whole_numbers
    from cellfm_torch.commands.outputs import results_folder
    from cellfm_torch.gene_tasks.function import gene_function

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for name in ("keys", "probes", "baselines"):
        options[name] = listed(options[name])
    options["seeds"] = whole_numbers(options["seeds"], "seeds")
    options["pairs"] = None if options["pairs"] is None else listed(options["pairs"])
    settings = dict(options)
    results = results_folder(options.pop("results"), overwrite=options["overwrite"])
    reading = options.pop("data") | {"genes": options.pop("genes")}
    keep = results / "parts"
    labels, folder = options.pop("labels"), options.pop("model_folder")
    try:
        result = gene_function(labels, folder, keep=keep, **options, **reading)
    except KeyboardInterrupt:
        return hydra_app.interrupted(keep)
    console = Console()
    for line in result.left_out:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    summary = result.summary()
    for question in result.questions:
        console.print(f"{_heading(question)}:", highlight=False, markup=False, soft_wrap=True)
        console.print(_table(summary[summary["task"] == question.name]))
    for line in result.verdicts():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    _save(result, summary, settings, results)
    shutil.rmtree(keep, ignore_errors=True)
    answer(results=results, scores=summary)
    console.print(f"results: {results}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _save(result: Any, summary: Any, settings: dict[str, Any], results: Path) -> None:
    from matplotlib.figure import Figure

    from cellfm_torch.commands.outputs import write_genes, write_settings, write_table
    from cellfm_torch.plots.cells import save_figure
    from cellfm_torch.plots.gene_function import function_bars

    write_table(result.scores, results / "scores.csv")
    write_table(summary, results / "summary.csv")
    write_table(result.per_term(), results / "per_term.csv")
    write_genes(result.predictions(), results / "predictions.h5ad")
    tasks = list(dict.fromkeys(summary["task"]))
    rows = summary["features"].nunique() * summary["probe"].nunique()
    figure = Figure(figsize=(0.6 + 4.2 * len(tasks), 1.4 + 0.16 * rows), layout="constrained")
    axes = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    for i, (ax, task) in enumerate(zip(axes, tasks, strict=True)):
        function_bars(summary[summary["task"] == task], ax=ax, title=task, legend=i == len(tasks) - 1)
    for ending in ("png", "pdf"):
        save_figure(figure, results / f"scores.{ending}")
    questions = {
        question.name: {
            "genes": len(question.rows),
            "terms": dict(zip(question.terms, _sizes(question), strict=True)),
            "left_out": question.left_out,
        }
        for question in result.questions
    }
    said = {"questions": questions, "verdicts": result.verdicts()}
    write_settings(settings | said, results)


def _sizes(question: Any) -> list[int]:
    """Return genes of each class or term."""
    return [int(number) for number in question.classes().sum(0)]


def _heading(question: Any) -> str:
    """Say what was asked of how many genes."""
    sizes = _sizes(question)
    if question.binary:
        what = f"{sizes[0]:,} {question.terms[0]}, {sizes[1]:,} {question.terms[1]}"
    else:
        what = f"{len(question.rows):,} genes, {len(sizes)} terms of {min(sizes):,} to {max(sizes):,}"
    unknown = f"; {question.left_out:,} left out" if question.left_out else ""
    return f"{question.name} ({what}{unknown}), mean ± standard deviation over folds and seeds"


def _table(summary: Any) -> Any:
    """Return the summary of a question for people."""
    from rich.table import Table

    from cellfm_torch.commands.figures import with_spread
    from cellfm_torch.gene_tasks.function.scores import METRICS

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))  # else wider than 80 columns
    names = [name for name in METRICS if name in summary and summary[name].notna().any()]
    for heading in ("features", "by"):
        table.add_column(heading, no_wrap=True)
    for name in names:
        table.add_column(METRICS[name], justify="right", no_wrap=True)
    for row in summary.to_dict("records"):
        probe = "" if row["probe"] == "none" else row["probe"]
        table.add_row(row["features"], probe, *(with_spread(row[name], row[f"{name}_sd"]) for name in names))
    return table


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/genes_function.yaml with overrides (default: the command line's) and run it."""
    return hydra_app.run(run, config="genes_function", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
