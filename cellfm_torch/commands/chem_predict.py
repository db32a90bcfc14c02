"""Cells under a compound: ``cellfm chem predict --predictor FOLDER --cells CELLS --drug NAME --dose 1.0``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app
from cellfm_torch.quiet import quiet_lightning

MOST_GENES = 5
"""Named on the terminal, of those that change most."""


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

    from cellfm_torch.commands.cells import write_cells
    from cellfm_torch.commands.outputs import new_file
    from cellfm_torch.data.files import one_file
    from cellfm_torch.errors import UserError
    from cellfm_torch.model.device import chosen_device
    from cellfm_torch.perturbation.chem.predictor import ChemicalPerturbation

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    source = one_file(options["cells"])
    default = f"{source.stem}_predicted.h5ad"
    output = new_file(options["output"], default, ".h5ad", overwrite=options["overwrite"], source=source)
    if options["drug"] is None and options["smiles"] is None:
        raise UserError("say which compound: --drug NAME, or --smiles SMILES for one that was not in training")
    device = str(chosen_device(options["accelerator"]))
    chem = ChemicalPerturbation.load(options["predictor"], model=options["model_folder"], device=device)
    name = str(options["drug"] if options["drug"] is not None else options["smiles"])
    found = chem.predict(name, options["dose"], smiles=options["smiles"], cells=source)
    write_cells(found, output)
    answer(output=output, cells=found.n_obs, genes=found.n_vars)
    order = found.var["change"].abs().sort_values(ascending=False).index[:MOST_GENES]
    genes = ", ".join(f"{gene} {found.var.loc[gene, 'change']:+.2f}" for gene in order)
    console = Console()
    lines = [
        f"{found.n_obs:,} control cells under {name}: most changed {genes} (log1p(CP10K))",
        f"output: {output}, obsm X_cellfm (predicted) and X_cellfm_control, X: {found.n_vars:,} marker genes",
    ]
    seen, dose = found.uns["cellfm_chem"]["doses_seen"], found.uns["cellfm_chem"]["dose"]
    if not seen[0] * 0.999 <= dose <= seen[-1] * 1.001:
        lines.append(f"dose {dose:g} is outside of those in training ({seen[0]:g} to {seen[-1]:g}): do not rely on it")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/chem_predict.yaml with overrides (default: the command line's) and run it."""
    return hydra_app.run(run, config="chem_predict", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
