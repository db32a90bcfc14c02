"""Chemical perturbation: ``cellfm chem train CELLS --model FOLDER``."""

from __future__ import annotations

import json
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
    from cellfm_torch.data.files import one_file
    from cellfm_torch.model.device import chosen_device
    from cellfm_torch.perturbation.chem.predictor import ChemicalPerturbation

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    options["seeds"] = whole_numbers(options["seeds"], "seeds")
    results = results_folder(options["results"], overwrite=options["overwrite"])
    control = None if options["control"] is None else [str(value) for value in listed(options["control"])]
    chem = ChemicalPerturbation(
        one_file(options["cells"]),
        options["model_folder"],
        **{name: options[name] for name in ("drug", "dose", "smiles", "by")},
        device=str(chosen_device(options["accelerator"])),
        control=control,
        **options["data"],
        genes=options["genes"],
    )
    console = Console()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    for line in [*chem.left_out, described(chem)]:
        say(line)
    how = options["fit"] | options["trainer"]
    asked = {name: options[name] for name in ("seeds", "share", "least_cells", "random_weights")}
    try:
        result = chem.evaluate(options["split"], say=say, **asked, **how)
        if len(result.scores):
            console.print(_table(result.summary()))
        for line in result.verdicts():
            say(line)
        say("learning from all conditions")
        chem.train(seed=options["seeds"][0], **how)
    except (KeyboardInterrupt, SystemExit):  # the latter is what Lightning makes of Ctrl-C
        return hydra_app.interrupted()
    _save(chem, result, options, results)
    scores = result.summary() if len(result.scores) else []
    answer(results=results, predictor=results / "predictor", scores=scores)
    say(f"results: {results}; predictor: {results / 'predictor'}")
    return 0


def described(chem: Any) -> str:
    """Say what there is to learn from."""
    cells, columns = chem.cells, chem.columns
    drugs = {condition.drug for condition in cells.conditions}
    contexts = sorted({condition.context for condition in cells.conditions} - {""})
    by = f" in {len(contexts):,} of {columns.by}" if contexts else ""
    doses = sorted({condition.dose for condition in cells.conditions})
    unit = f" {columns.unit}" if columns.unit else ""
    many = f", doses {doses[0]:g} to {doses[-1]:g}{unit}" if columns.dose else ", without doses"
    how = f"by SMILES of {columns.smiles}" if chem.compounds.by_structure else "told apart by name"
    return (
        f"{sum(map(len, cells.rows.values())):,} treated and {int(cells.control.sum()):,} control cells{by}; "
        f"{len(drugs):,} compounds of column {columns.drug}, {how}{many}"
    )


def _save(chem: Any, result: Any, options: dict[str, Any], results: Path) -> None:
    from cellfm_torch.commands.outputs import write_settings, write_table
    from cellfm_torch.files import write_text
    from cellfm_torch.report.chem import render_chem

    # A folder of results that is not whole has no settings.json.
    (results / "settings.json").unlink(missing_ok=True)
    verdicts = result.verdicts()
    write_text(results / "split.json", json.dumps([split.as_json() for split in result.splits], indent=1) + "\n")
    if len(result.scores):
        write_table(result.scores, results / "scores.csv")
        write_table(result.summary(), results / "summary.csv")
        write_table(result.by_condition(), results / "by_condition.csv")
    chem.save(results / "predictor", overwrite=True)
    facts = {
        "cells": chem.cells.source,
        "model": options["model_folder"],
        "what": described(chem),
        "scores": "MMD: unbiased, squared, mean of Gaussian kernels of 0.25 to 4 median distances. Wasserstein: exact "
        "2-Wasserstein of as many cells of either side. Both in the space of standardised embeddings. r2: of mean "
        "log1p(CP10K) of the marker genes, and of their change from control, which is harder. Everything is compared "
        "with one half of the treated cells and then with the other.",
        "how to read them": "Other half: what one half of the true cells says of the other, which is as good as can be "
        "told from so many cells. Mean step only: without the flow. Genes from embedding: marker genes read from the "
        "predicted embedding alone, by ridge regression. MMD may be negative where nothing is to be told apart. "
        "Wasserstein distances of few cells are far from zero for true cells too, and favour predictions that scatter "
        "less than cells do: trust the MMD first.",
        "split": f"{options['split']}, seeds {', '.join(map(str, options['seeds']))}",
    }
    page = render_chem(
        title=f"Chemical perturbation: {chem.cells.source}",
        says=[*result.left_out, *verdicts],
        splits=[split.as_json() for split in result.splits],
        summary=result.summary() if len(result.scores) else None,
        by_condition=result.by_condition() if len(result.scores) else None,
        pictures=result.pictures,
        facts=facts.items(),
    )
    write_text(results / "page.html", page)
    write_settings(options | {"columns": vars(chem.columns), "verdicts": verdicts}, results)


def _table(summary: Any) -> Any:
    """Return the summary for people: mean, and standard deviation over seeds."""
    from rich.table import Table

    from cellfm_torch.commands.figures import with_spread

    columns = {"mmd_relative": "MMD/no change", "r2": "r2 of means", "r2_change": "r2 of changes"}  # for 80 columns
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("network", "method"):
        table.add_column(heading, no_wrap=True)
    for heading in columns.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in summary.to_dict("records"):
        figures = (with_spread(row[name], row[f"{name}_sd"]) for name in columns)
        table.add_row(row["network"], row["method"], *figures)
    return table


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/chem_train.yaml with overrides (default: the command line's) and run it."""
    return hydra_app.run(run, config="chem_train", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
