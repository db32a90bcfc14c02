"""Drug response by a planted effect: lines, drugs, tissues and cells that were held out, beside baselines, in one page.

    python benchmarks/drug.py --model MODEL --work FOLDER --gdsc FOLDER [--seeds 0,1,2] [--lines 160] [--cells 200]

FOLDER of GDSC holds GDSC_IC50.csv, GDSC_drug_list.csv, 223drugs_pubchem_smiles.txt and
Cell_lines_annotations_20181226.txt, which are not part of this project. Lines, drugs, SMILES, tissues and what was
measured are real; expression and IC50 are simulated, as no expression of the lines is at hand
(cellfm_torch/drug/simulation.py), one simulation per seed, which is that of the split too. With a small model the page
says nothing of CellFM's quality. What is done stays in the work folder, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.cell_tasks import described, number  # noqa: E402
from benchmarks.machine import hardware_slug, machine, versions  # noqa: E402
from benchmarks.report import RESULTS, stem_of  # noqa: E402
from cellfm_torch import drug_response, load_model, single_cell_response  # noqa: E402
from cellfm_torch.drug.baselines import BASELINES  # noqa: E402
from cellfm_torch.drug.cells import GENES, RANDOM  # noqa: E402
from cellfm_torch.drug.ic50 import read_ic50, read_smiles  # noqa: E402
from cellfm_torch.drug.methods import METHODS  # noqa: E402
from cellfm_torch.drug.names import read_drugs, read_lines, read_table  # noqa: E402
from cellfm_torch.drug.scores import METRICS  # noqa: E402
from cellfm_torch.drug.simulation import SimulatedLines, simulated_cells, simulated_lines  # noqa: E402
from cellfm_torch.drug.splits import KINDS  # noqa: E402
from cellfm_torch.embedding.cell_sets import weights_digest  # noqa: E402
from cellfm_torch.files import written_beside  # noqa: E402
from cellfm_torch.job_folder import open_job  # noqa: E402

FAMILIES = 6
"""Target pathways with the most drugs; one gene acts on each."""
TESTED_FAMILIES = 2
"""Of which a drug is asked about in cells."""
DEPTH = 5000
"""Counts of a cell."""
NOTHING = "nothing to find"
NAMES = {
    "ic50": "GDSC_IC50.csv",
    "drugs": "GDSC_drug_list.csv",
    "smiles": "223drugs_pubchem_smiles.txt",
    "annotation": "Cell_lines_annotations_20181226.txt",
}


def planted(gdsc: Path, work: Path, seed: int, lines: int) -> tuple[dict[str, Any], SimulatedLines, pd.DataFrame]:
    """Write tables of simulated values under real names; returns their paths, what was planted, and real IC50."""
    files = {name: str(gdsc / file) for name, file in NAMES.items()}
    of_drugs, known = read_drugs(files["drugs"])
    of_lines = read_lines(files["annotation"])
    real = read_ic50(files["ic50"], of_lines, of_drugs)
    structures = read_smiles(files["smiles"])
    table = read_table(files["drugs"], "drugs").set_index("drug_id")
    smiles = {
        drug: next((structures[name] for name in known.get(drug, ()) if name in structures), None)
        for drug in map(str, real.index)
    }
    pathway = {drug: str(table.loc[drug, "Target pathway"]) for drug in smiles if drug in table.index and smiles[drug]}
    often = pd.Series(pathway).drop(labels=[d for d, p in pathway.items() if p.startswith(("Other", "Unclass"))])
    families = list(often.value_counts(sort=True).index[:FAMILIES])
    drugs = {drug: (pathway[drug], str(smiles[drug])) for drug in pathway if pathway[drug] in families}
    there = [line for line in map(str, real.columns) if line in of_lines.tissue]
    chosen = np.random.default_rng(seed).permutation(there)[:lines].tolist()
    made = simulated_lines(lines=chosen, drugs=drugs, seed=seed, missing=0.0)
    folder = work / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    measured = real.loc[list(drugs), chosen]
    made.ic50.where(measured.notna()).to_csv(folder / "ic50.csv", na_rep="NA")
    measured.to_csv(folder / "real_ic50.csv", na_rep="NA")
    made.expression.to_csv(folder / "expression.csv")
    paths = {"expression": str(folder / "expression.csv"), "ic50": str(folder / "ic50.csv")}
    return paths | {name: files[name] for name in ("drugs", "smiles", "annotation")}, made, measured


def bulk(network: Any, given: dict[str, Any], seed: int, work: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return scores of the four splits, and of real IC50, of which made-up expression says nothing; and notes."""
    tables, notes = [], []
    for kind in KINDS:
        keep = work / f"seed_{seed}" / kind
        found = drug_response(model=network, split=kind, seeds=(seed,), keep=keep, overwrite=True, **given)
        tables.append(found.scores)
        notes = [note for note in found.responses.notes if given["expression"] not in note]
    real = given | {"ic50": given["ic50"].replace("ic50.csv", "real_ic50.csv")}
    keep = work / f"seed_{seed}" / "real"
    found = drug_response(
        model=network, split="line", seeds=(seed,), random_weights=False, keep=keep, overwrite=True, **real
    )
    return pd.concat([*tables, found.scores.assign(split=NOTHING)], ignore_index=True), notes


def in_cells(
    network: Any, given: dict[str, Any], made: SimulatedLines, seed: int, work: Path, cells: int
) -> pd.DataFrame:
    """Return AUROC and AUPR of drugs of several families by each method."""
    folder = work / f"seed_{seed}" / "cell_scores"
    job = {"model": weights_digest(network), "lines": len(made.expression), "cells": cells, "depth": DEPTH}
    open_job(folder, job | {"methods": list(METHODS), "families": TESTED_FAMILIES}, overwrite=True)
    if (folder / "scores.csv").is_file():
        return pd.read_csv(folder / "scores.csv", dtype={"drug": str})
    asked = simulated_cells(made, cells, depth=DEPTH, seed=1000 + seed)
    given = {name: value for name, value in given.items() if name != "smiles"}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for family in sorted(made.drivers)[:TESTED_FAMILIES]:
        drug = next(name for name, own in made.family.items() if own == family)
        for method in METHODS:
            one = single_cell_response(
                asked,
                model=network,
                drug=drug,
                method=method,
                response=family,
                seed=seed,
                keep=work / f"seed_{seed}" / "cells",
                **given,
            )
            assert one.scores is not None
            table = one.scores.set_index("method")
            for name, as_said in ((one.method, f"model, {method}"), (RANDOM, f"{RANDOM}, {method}"), (GENES, GENES)):
                rows[drug, as_said] = {
                    "seed": seed,
                    "drug": drug,
                    "method": as_said,
                    "auroc": float(table.loc[name, "auroc"]),
                    "aupr": float(table.loc[name, "aupr"]),
                }
    found = pd.DataFrame(rows.values())
    with written_beside(folder / "scores.csv") as part:
        found.to_csv(part, index=False)
    return found


def bulk_lines(scores: pd.DataFrame) -> list[str]:
    """Return a table per split."""
    lines = []
    for split, part in scores.groupby("split", sort=False):
        lines += ["", f"### {_title(str(split))}, {part['pairs'].mean():,.0f} pairs a seed", ""]
        lines += [f"| | {' | '.join(METRICS.values())} |", "|---" * (1 + len(METRICS)) + "|"]
        groups = part.groupby("method", sort=False)[list(METRICS)]
        for name in groups.mean().index:
            figures = (number(groups.mean().loc[name, m], groups.std().loc[name, m]) for m in METRICS)
            lines.append(f"| {name} | {' | '.join(figures)} |")
    return lines


def in_short(bulk_scores: pd.DataFrame, cell_scores: pd.DataFrame) -> list[str]:
    """Say where a baseline beats the model."""
    lines = []
    for split, part in bulk_scores.groupby("split", sort=False):
        by_seed = part.pivot(index="seed", columns="method", values="rmse")
        mean = by_seed.mean()
        best = min((name for name in BASELINES if name in mean), key=lambda name: float(mean[name]))
        said = f"* {_title(str(split))}: RMSE of the model {mean['model']:.3f}"
        for other in [name for name in (best, RANDOM) if name in mean]:
            wins = int((by_seed["model"] < by_seed[other]).sum())
            said += f", {other} {mean[other]:.3f} (the model's is smaller in {wins} of {len(by_seed)} seeds)"
        lines.append(f"{said}.")
    mean = cell_scores.groupby("method")["auroc"].mean()
    best = str(mean[[name for name in mean.index if name.startswith("model")]].idxmax())
    lines.append(f"* Cells: AUROC of {GENES} {mean[GENES]:.3f}, of the best on embeddings ({best}) {mean[best]:.3f}.")
    return lines


def _title(split: str) -> str:
    return "Real IC50, simulated expression: nothing to find" if split == NOTHING else f"New {split}s"


def cell_lines(scores: pd.DataFrame) -> list[str]:
    """Return the table of cells."""
    lines = ["", "| | AUROC | AUPR | AUROC over none |", "|---|---|---|---|"]
    wide = scores.pivot(index=["seed", "drug"], columns="method", values="auroc")
    groups = scores.groupby("method", sort=False)[["auroc", "aupr"]]
    mean, spread = groups.mean(), groups.std()
    for name in sorted(mean.index, key=lambda name: (name.split(",")[0], -float(mean.loc[name, "auroc"]))):
        none = f"{name.split(',')[0]}, none"
        gain = (wide[name] - wide[none]) if none in wide else pd.Series([np.nan])
        error = gain.std() / np.sqrt(len(gain))
        said = "-" if gain.isna().all() or name == none else f"{gain.mean():+.3f} ± {error:.3f}"
        figures = (number(mean.loc[name, m], spread.loc[name, m]) for m in ("auroc", "aupr"))
        lines.append(f"| {name} | {' | '.join(figures)} | {said} |")
    return lines


def main() -> None:
    """Run what is not done yet and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--gdsc", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--lines", type=int, default=160)
    parser.add_argument("--cells", type=int, default=200)
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    network = load_model(options.model.resolve())
    warnings.simplefilter("ignore")
    of_bulk, of_cells, notes, began = [], [], [], time.monotonic()
    for seed in seeds:
        given, made, _ = planted(options.gdsc.resolve(), options.work.resolve(), seed, options.lines)
        scores, notes = bulk(network, given, seed, options.work.resolve())
        of_bulk.append(scores)
        of_cells.append(in_cells(network, given, made, seed, options.work.resolve(), options.cells))
        print(f"seed {seed}: {time.monotonic() - began:.0f} s", flush=True)
    bulk_scores, cell_scores = pd.concat(of_bulk, ignore_index=True), pd.concat(of_cells, ignore_index=True)
    about: dict[str, Any] = machine() | versions(["torch", "lightning", "rdkit", "scikit-learn"])
    lines = ["# Drug response", "", f"Model: {described(options.model)}. A small model, trained on PBMC3k alone, says"]
    lines[-1] += " nothing of CellFM."
    lines += [
        "",
        f"Names of {options.lines} GDSC lines and of the drugs of the {FAMILIES} target pathways with the most drugs, "
        "their SMILES, tissues and gaps are real. Expression (600 genes) and IC50 are simulated: ln IC50 = drug + line "
        "- 1.5 times the activity of one gene's programme per pathway + noise of 0.5, the least RMSE there can be. "
        f"Mean ± standard deviation over {len(seeds)} seeds, each a simulation, a split, and other random weights.",
        "",
        f"Of the last seed: {'; '.join(notes)}.",
        "",
        "In short:",
        "",
        *in_short(bulk_scores, cell_scores),
        "",
        "## IC50 of what was held out",
        *bulk_lines(bulk_scores),
        "",
        "## Sensitive cells told from resistant ones",
        "",
        f"{options.cells} simulated cells a seed with the lines' programmes at {DEPTH:,} counts on another platform; a "
        f"drug of each of {TESTED_FAMILIES} pathways; the third of the lines with the lowest IC50 is called sensitive, "
        "that with the highest resistant. Gains over no adaptation are paired, with their standard errors.",
        *cell_lines(cell_scores),
        "",
        f"{about['cores']} cores of {about['processor']}; torch {about['torch']}, RDKit {about['rdkit']}.",
    ]
    found = {
        name: json.loads(table.to_json(orient="records", double_precision=6))
        for name, table in (("bulk", bulk_scores), ("cells", cell_scores))
    }
    written = {"machine": about, "seeds": seeds, "model": described(options.model), "notes": notes, **found}
    stem = stem_of("drug", hardware_slug("cpu"), RESULTS)
    stem.with_suffix(".json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{stem}.md")


if __name__ == "__main__":
    main()
