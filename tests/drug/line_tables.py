"""Tables of cell lines in public layouts, made up, and tiny networks."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from cellfm_torch import CellFM, CellFMConfig, ScFoundation, ScFoundationConfig
from cellfm_torch.drug.simulation import SimulatedLines, simulated_lines


def network(backbone: str = "cellfm") -> CellFM | ScFoundation:
    torch.manual_seed(7)  # others than those of the baseline with random weights
    if backbone == "cellfm":
        return CellFM(CellFMConfig.preset("tiny", num_layers=1, dim=32, num_heads=1)).eval()
    return ScFoundation(ScFoundationConfig.preset("scfoundation-tiny")).eval()


@functools.cache
def simulated(number: int = 80, genes: int = 600) -> SimulatedLines:
    return simulated_lines(number, genes=genes, seed=0)


def write(folder: Path, given: SimulatedLines | None = None) -> dict[str, Any]:
    """Write expression as DepMap has it, IC50 as GDSC, and what joins them; returns the arguments."""
    made = given or simulated()
    depmap = made.expression.copy()
    depmap.columns = [f"{gene} ({i + 1})" for i, gene in enumerate(depmap.columns)]
    depmap.to_csv(folder / "expression.csv")
    made.ic50.to_csv(folder / "ic50.csv", na_rep="NA")
    drugs = [f"{i + 1},drug {i + 1},{1000 + i}" for i in range(len(made.ic50))]
    (folder / "drugs.csv").write_text("\n".join(["drug_id,Name,PubCHEM", *drugs]) + "\n")
    (folder / "smiles.txt").write_text("".join(f"{1000 + i}\t{text}\n" for i, text in enumerate(made.smiles.values())))
    rows = [
        f"{line.replace('ACH-', 'L')}_{tissue.upper()}\t{line}\tL {line[4:]}\t{tissue}\t{900000 + i}"
        for i, (line, tissue) in enumerate(made.tissue.items())
    ]
    (folder / "lines.txt").write_text("\n".join(["CCLE_ID\tdepMapID\tName\tSite_Primary\tCOSMIC_ID", *rows]) + "\n")
    return {
        "expression": str(folder / "expression.csv"),
        "ic50": str(folder / "ic50.csv"),
        "smiles": str(folder / "smiles.txt"),
        "drugs": str(folder / "drugs.csv"),
        "annotation": str(folder / "lines.txt"),
    }
