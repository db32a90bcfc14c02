"""What perturbing genes would do: ``cellfm perturb predict --genes KLF1 --cells CTRL.h5ad``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app

SAME = "same"
"""Of an option of reading: as when the predictor learned."""


def run(cfg: Any) -> int:
    """Run one job from a composed configuration; returns the exit code.

    Raises
    ------
    UserError
        For what the user can put right; nothing has been written then.
    """
    from omegaconf import OmegaConf
    from rich.console import Console

    from cellfm_torch.commands.lists import gene_names
    from cellfm_torch.commands.outputs import new_file, write_genes
    from cellfm_torch.data.files import one_file
    from cellfm_torch.errors import UserError

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    cells, genes = one_file(options["cells"]), gene_names(options["gene_list"]) or []
    default = f"{cells.stem}_perturbed.h5ad"
    output = new_file(options["output"], default, ".h5ad", overwrite=options["overwrite"], source=cells)
    if options["single_cells"] and len(genes) != 1:
        raise UserError(f"single_cells=true: takes one condition, {len(genes)} are asked for")
    predictor = load_predictor(options)
    found = predictor.predict_cells(genes[0], cells) if options["single_cells"] else predictor.predict(genes, cells)
    write_genes(found, output)
    answer(output=output, rows=found.n_obs, genes=found.n_vars)
    console = Console()
    if not options["single_cells"]:
        for line in _lines(found, options["top"]):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    what = ("cell" if options["single_cells"] else "condition") + ("s" if found.n_obs > 1 else "")
    console.print(
        f"written: {output}, {found.n_obs:,} {what} x {found.n_vars:,} genes", highlight=False, soft_wrap=True
    )
    return 0


def load_predictor(options: dict[str, Any]) -> Any:
    """Return the predictor that options name, on the device that they name; reading options that are given count."""
    from cellfm_torch.model.device import chosen_device
    from cellfm_torch.perturbation.gene.screen import GenePerturbation

    folder, device = Path(options["predictor"]), chosen_device(options["accelerator"])
    predictor = GenePerturbation.load(folder, model=options["model_folder"], device=str(device))
    data, genes = ({k: v for k, v in options[group].items() if v != SAME} for group in ("data", "genes"))
    predictor.reading = predictor.reading | data | {"genes": {**predictor.reading.get("genes", {}), **genes}}
    return predictor


def _lines(found: Any, top: int) -> list[str]:
    """Return, for each condition, how much is known of it and which genes move most."""
    import numpy as np

    lines = []
    for i, name in enumerate(found.obs_names):
        row, change = found.obs.iloc[i], found.layers["change"][i]
        if row["measured"]:
            known = "measured in training"
        elif row["seen"] == row["perturbed"]:
            known = "its genes were perturbed in training"
        else:
            some = f"{row['seen']} of its {row['perturbed']} genes" if row["seen"] else "not"
            known = f"{some} perturbed in training"
        order = np.argsort(-np.abs(change), kind="stable")[:top]
        moved = ", ".join(f"{found.var_names[j]} {change[j]:+.2f}" for j in order)
        lines.append(f"{name} ({known}): {moved}")
    return lines


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/perturb_predict.yaml with overrides (default: the command line's) and run it."""
    return hydra_app.run(run, config="perturb_predict", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
