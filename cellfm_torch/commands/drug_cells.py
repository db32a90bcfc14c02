"""Single-cell drug response: ``cellfm drug cells CELLS --lines TABLE --ic50 TABLE --drug NAME --model FOLDER``."""

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

    from cellfm_torch.commands.outputs import results_folder
    from cellfm_torch.data.files import one_file
    from cellfm_torch.drug.cells import single_cell_response

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    options["cells"] = str(one_file(options["cells"]))
    options["drug"] = str(options["drug"])
    settings = dict(options)
    results = results_folder(options.pop("results"), overwrite=options.pop("overwrite"))
    keep = results / "parts"
    console = Console()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    options |= options.pop("data") | {"model": options.pop("model_folder")}
    try:
        result = single_cell_response(**options, keep=keep, say=say)
    except KeyboardInterrupt:
        return hydra_app.interrupted(keep)
    for line in result.verdicts():
        say(line)
    _save(result, settings, results)
    shutil.rmtree(keep, ignore_errors=True)
    scores = [] if result.scores is None else result.scores
    answer(results=results, cells=results / "cells.h5ad", scores=scores)
    say(f"results: {results}; cells: {results / 'cells.h5ad'}")
    return 0


def _save(result: Any, settings: dict[str, Any], results: Path) -> None:
    from cellfm_torch.commands.outputs import write_genes, write_settings, write_table
    from cellfm_torch.drug.cells import PROBABILITY
    from cellfm_torch.drug.methods import WORDS
    from cellfm_torch.files import write_text
    from cellfm_torch.report.drug_cells import render_drug_cells

    # A folder of results that is not whole has no settings.json.
    (results / "settings.json").unlink(missing_ok=True)
    verdicts, obs = result.verdicts(), result.adata.obs
    write_genes(result.adata, results / "cells.h5ad")
    if result.scores is not None:
        write_table(result.scores, results / "scores.csv")
    by = settings["by"]
    drawn = f", groups of {by} drawn whole." if by else ". Cells of a donor are alike: give by=COLUMN."
    facts = {
        "cells": settings["cells"],
        "lines": f"{settings['expression']}, IC50: {settings['ic50']}",
        "model": str(settings["model_folder"]),
        "method": f"{settings['method']}: {WORDS[settings['method']]}; no label of a cell is used. Cells that respond "
        "otherwise than lines do, or a file with one kind of cell only, are not noticed.",
    }
    if result.scores is not None:
        facts |= {
            "baselines": "Logistic regression on log1p(CP10K) of the 2,000 most variable genes that lines and cells "
            "express; the same embedding without adaptation; the same network with random weights.",
            "intervals": f"95 %, of 500 bootstrap samples of the cells{drawn}",
        }
    response = settings["response"]
    text = render_drug_cells(
        title=f"Response to {result.drug}: {Path(settings['cells']).name}",
        says=[*result.notes, *verdicts],
        scores=result.scores,
        probability=obs[PROBABILITY].to_numpy(),
        truth=None if response is None else obs[response].astype(str).to_numpy(),
        facts=facts.items(),
    )
    write_text(results / "page.html", text)
    write_settings(settings | {"notes": list(result.notes), "verdicts": verdicts}, results)


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/drug_cells.yaml with overrides (default: the command line's) and run it."""
    return hydra_app.run(run, config="drug_cells", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
