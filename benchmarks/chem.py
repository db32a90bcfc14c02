"""Where compounds move cells, predicted for held-out compounds, doses and cell types, beside baselines.

    python benchmarks/chem.py --model MODEL [--seeds 3,4,5] [--cells FILE --drug COLUMN --by COLUMN]

Simulated: PBMC3k with known effects (cellfm_torch/perturbation/chem/simulation.py), a simulation per seed. With --cells
a file of real cells of several contexts, each of which is left out once: kang_pbmc.h5ad with condition and cell_type is
the usual one, and is not part of this project. With a small model it says nothing about CellFM's quality.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.cell_tasks import described, number  # noqa: E402
from benchmarks.machine import hardware_slug, machine, versions  # noqa: E402
from benchmarks.report import RESULTS, stem_of  # noqa: E402

COLUMNS = {
    "mmd": "MMD",
    "mmd_relative": "MMD over no change",
    "wasserstein": "Wasserstein",
    "r2": "r2 of means",
    "r2_change": "r2 of changes",
}


def simulated(model: Path, seeds: list[int], splits: list[str]) -> dict[str, Any]:
    """Return what held-out conditions gave by split, a simulation per seed."""
    from cellfm_torch import ChemicalPerturbation
    from cellfm_torch.model.loading import load_model
    from cellfm_torch.perturbation.chem.result import ChemResult
    from cellfm_torch.perturbation.chem.simulation import simulated_treatment

    network = load_model(model)
    parts: dict[str, list[Any]] = {split: [] for split in splits}
    for seed in seeds:
        chem = ChemicalPerturbation(simulated_treatment(seed=seed), network)
        for split in splits:
            parts[split].append(chem.evaluate(split, seeds=[seed], say=print, enable_progress_bar=False))
    found = {}
    for split, results in parts.items():
        scores = pd.concat([result.scores for result in results], ignore_index=True)
        # Compounds of two simulations have the same names and other effects.
        scores["context"] = [f"simulation {seed}" for seed in scores["seed"]]
        found[split] = ChemResult([one for result in results for one in result.splits], scores)
    return found


def real(options: argparse.Namespace) -> Any:
    """Return what leaving each context of a file out gave."""
    from cellfm_torch import ChemicalPerturbation

    chem = ChemicalPerturbation(options.cells, options.model, drug=options.drug, by=options.by)
    return chem.evaluate("context", seeds=options.seeds, say=print, enable_progress_bar=False)


def lines_of(title: str, result: Any) -> list[str]:
    """Return the section of an evaluation."""
    lines = ["", f"## {title}", "", "| network | method | " + " | ".join(COLUMNS.values()) + " |"]
    lines.append("|---" * (2 + len(COLUMNS)) + "|")
    for row in result.summary().to_dict("records"):
        digits = {name: 1000 if name == "mmd" else 1 for name in COLUMNS}
        figures = [number(digits[name] * row[name], digits[name] * row[f"{name}_sd"]) for name in COLUMNS]
        lines.append(f"| {row['network']} | {row['method']} | {' | '.join(figures)} |")
    return [*lines, "", *(f"* {line}" for line in result.verdicts())]


def main() -> None:
    """Run and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--seeds", default="3,4,5", help="0, 1 and 2 were looked at when defaults were chosen")
    parser.add_argument("--splits", default="compound,dose")
    parser.add_argument("--cells", type=Path, help="file of real cells")
    parser.add_argument("--drug", default="condition")
    parser.add_argument("--by", default="cell_type")
    options = parser.parse_args()
    options.seeds = [int(seed) for seed in options.seeds.split(",")]
    splits = simulated(options.model, options.seeds, options.splits.split(","))
    found = {f"Simulated PBMC3k, split by {split}": result for split, result in splits.items()}
    if options.cells is not None:
        found[f"{options.cells.name}, each {options.by} left out"] = real(options)
    about = machine() | versions(["torch", "lightning", "rdkit", "scipy"])
    seeds = ", ".join(map(str, options.seeds))
    lines = [
        "# Where compounds move cells",
        "",
        f"Model: {described(options.model)}, pretrained for a short time on PBMC3k: the figures show what the method "
        "does and say nothing about CellFM's quality.",
        f"Mean ± standard deviation over seeds {seeds}, MMD in thousandths. Simulated: a simulation per seed, 20 "
        "compounds of 4 scaffolds at 3 doses, 33 or 34 cells each, 675 control cells. Everything is compared with one "
        "half of the treated cells and then with the other; other half: what those say of each other. Genes from "
        "embedding: marker genes read from the predicted embedding alone, where the flow's row has them from the "
        "means of similar conditions.",
    ]
    for title, result in found.items():
        lines += lines_of(title, result)
    lines += ["", f"{about['cores']} cores of {about['processor']}; torch {about['torch']}, RDKit {about['rdkit']}."]
    as_json = {
        title: {
            "summary": json.loads(result.summary().to_json(orient="records")),
            "scores": json.loads(result.scores.to_json(orient="records", double_precision=6)),
            "verdicts": result.verdicts(),
        }
        for title, result in found.items()
    }
    stem = stem_of("chem", hardware_slug("cpu"), RESULTS)
    written = {"machine": about, "seeds": options.seeds, "model": described(options.model), "found": as_json}
    stem.with_suffix(".json").write_text(json.dumps(written, indent=1) + "\n")
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{stem}.md")


if __name__ == "__main__":
    main()
