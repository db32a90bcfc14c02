"""Annotation, integration and comparison on real cells, beside baselines, in one page of results.

    python benchmarks/cell_tasks.py --data FOLDER --model MODEL --work FOLDER [--only NAME,NAME] [--seeds 5]

FOLDER of the data holds pbmc3k, kang_pbmc, pbmc68k_700 and pbmc_3batches as h5ad files, which are not part of this
project. Each job is a `cellfm` command whose results stay in the work folder; what is done is not done again, so that
the hours may be spread. The page says which jobs there are. With a small model it says nothing about CellFM's quality.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import hardware_slug, machine, versions  # noqa: E402
from benchmarks.report import RESULTS, stem_of  # noqa: E402

# What the three sources call a type -> one name for all of them; nothing: no label.
TYPES = {
    "Naive CD4 T": "CD4 T",
    "Memory CD4 T": "CD4 T",
    "CD4 T cells": "CD4 T",
    "CD4+/CD25 T Reg": "CD4 T",
    "CD4+/CD45RO+ Memory": "CD4 T",
    "CD4+/CD45RA+/CD25- Naive T": "CD4 T",
    "CD14+ Mono": "CD14 monocyte",
    "CD14+ Monocytes": "CD14 monocyte",
    "CD14+ Monocyte": "CD14 monocyte",
    "FCGR3A+ Mono": "FCGR3A monocyte",
    "FCGR3A+ Monocytes": "FCGR3A monocyte",
    "DC": "dendritic",
    "Dendritic": "dendritic",
    "Platelet": "platelet",
    "B cells": "B",
    "CD19+ B": "B",
    "CD8 T cells": "CD8 T",
    "CD8+ Cytotoxic T": "CD8 T",
    "CD8+/CD45RA+ Naive Cytotoxic": "CD8 T",
    "CD56+ NK": "NK",
    "unlabelled": "",
}

DESIGNS = {
    "kang": (["--query", "{data}/kang_pbmc.h5ad", "--query-label", "cell_type"], "pbmc3k -> kang_pbmc"),
    "p68": (["--query", "{data}/pbmc68k_700.h5ad", "--query-label", "cell_type"], "pbmc3k -> pbmc68k_700"),
    "in": (["--folds", "5", "--few-shot", "5,10,50"], "within pbmc3k"),
}
TRAINING = ["baselines=none", "trainer.max_steps=300", "trainer.max_epochs=-1", "data.token_budget=4096"]
"""The same short training everywhere, so that forty fits of a design take an hour rather than a day on a CPU."""

METHODS = {
    "knn": ["--method", "knn", "baselines=[majority,pca_knn]"],
    "logistic": ["--method", "knn", "baselines=[gene_logistic]"],
    "linear": ["--method", "linear", "baselines=none"],
    "frozen": ["--method", "frozen", *TRAINING],
    "lora": ["--method", "lora", *TRAINING],
    "full": ["--method", "full", *TRAINING],
    "rand": ["--method", "knn", "baselines=[random_weights]"],
}
"""Methods, and the baselines that are run with one of them."""

FIGURES = ("accuracy", "macro_f1", "weighted_f1", "rare_f1", "calibration_error", "false_rejections")


def jobs(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the commands by name; results go to the folder of that name."""
    cellfm = [sys.executable, "-m", "cellfm_torch.cli"]
    data, model, work = options.data, ["--model", str(options.model)], options.work
    seeds = f"seeds=[{','.join(map(str, range(options.seeds)))}]"
    found = {}
    for design, (query, _) in DESIGNS.items():
        for method, asked in METHODS.items():
            typed = [*cellfm, "annotate", "--reference", f"{data}/pbmc3k.h5ad", *model, "--results"]
            typed += [str(work / f"{design}_{method}"), "--labels-map", str(work / "types.csv"), "overwrite=true"]
            found[f"{design}_{method}"] = [*typed, *(x.format(data=data) for x in query), *asked, seeds]
    for method in ("zero-shot", "finetune"):
        typed = [*cellfm, "integrate", f"{data}/pbmc_3batches.h5ad", "--batch", "batch", "--label", "cell_type"]
        output = work / f"integrate_{method}" / "cells.h5ad"
        found[f"integrate_{method}"] = [*typed, *model, "--method", method, "--output", str(output)]
    typed = [*cellfm, "compare", f"{data}/kang_pbmc.h5ad", "--condition", "condition", "--donor", "donor"]
    output = work / "compare" / "cells.h5ad"
    found["compare"] = [*typed, "--label", "cell_type", *model, "--output", str(output)]
    return found


def is_done(folder: Path) -> bool:
    """Whether a job has ended well."""
    return any(folder.glob("summary.csv")) or any(folder.glob("*.scores.csv")) or any(folder.glob("*.groups.csv"))


def run(name: str, command: list[str], work: Path) -> None:
    """Run one job, its words into a log."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    with (work / f"{name}.log").open("w") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder).returncode
    print(f"{name}: {'done' if code == 0 else f'exit code {code}, see {name}.log'}", flush=True)


def annotation_rows(work: Path) -> pd.DataFrame:
    """Return a row for each design, evaluation and model that is done, a baseline of several jobs once."""
    tables = []
    for design, (_, title) in DESIGNS.items():
        for method in METHODS:
            file = work / f"{design}_{method}" / "summary.csv"
            if file.is_file():
                tables.append(pd.read_csv(file).assign(design=title))
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables)
    return table.drop_duplicates(["design", "evaluation", "model"])


def page(work: Path, model: Path) -> list[str]:
    """Return the lines of the page."""
    table = annotation_rows(work)
    lines = ["# Cell tasks", "", f"Model: {described(model)}. Mean ± standard deviation over seeds."]
    lines += ["A small model trained on PBMC3k alone says nothing of CellFM."]
    lines += [f"frozen, lora, full: {', '.join(TRAINING[1:])}.", ""]
    lines += ["| | | " + " | ".join(name.replace("_", " ") for name in FIGURES) + " | seeds |"]
    lines += ["|---|---|" + "---|" * (len(FIGURES) + 1)]
    for _, row in table.iterrows():
        figures = [number(row[name], row.get(f"{name}_sd")) for name in FIGURES]
        lines.append(
            f"| {row['design']}, {row['evaluation']} | {row['model']} | {' | '.join(figures)} | {row['seeds']} |"
        )
    for file in sorted(work.glob("integrate_*/*.scores.csv")):
        scores = pd.read_csv(file, index_col=0)
        lines += ["", f"pbmc_3batches, {file.parent.name.removeprefix('integrate_')}:", ""]
        lines += ["| | " + " | ".join(map(str, scores.columns)) + " |", "|---|" + "---|" * scores.shape[1]]
        lines += [f"| {name} | {' | '.join(number(x) for x in row)} |" for name, row in scores.iterrows()]
    log = work / "compare.log"
    if is_done(work / "compare") and log.is_file():
        said = [line.strip() for line in log.read_text(encoding="utf-8").splitlines() if "neighbourhoods, " in line]
        lines += ["", "kang_pbmc, ctrl / stim, 2 donors:", "", *(f"* {line}" for line in said)]
    return lines


def described(model: Path) -> str:
    """Say what the model is: its configuration in a line."""
    config: dict[str, Any] = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return ", ".join(f"{key} {value}" for key, value in config.items() if isinstance(value, int | str))


def number(value: Any, spread: Any = None) -> str:
    """Write a figure, with its standard deviation where it has one."""
    if pd.isna(value):
        return "-"
    return f"{value:.3f}" if spread is None or pd.isna(spread) else f"{value:.3f} ± {spread:.3f}"


def main() -> None:
    """Run what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default=None, help="names of jobs; none: only write the page")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    options.data, options.model, options.work = (x.resolve() for x in (options.data, options.model, options.work))
    options.work.mkdir(parents=True, exist_ok=True)
    rows = "".join(f'"{name}","{to}"\n' for name, to in TYPES.items())
    (options.work / "types.csv").write_text(f"from,to\n{rows}", encoding="utf-8")
    all_jobs = jobs(options)
    wanted = list(all_jobs) if options.only is None else [n for n in options.only.split(",") if n != "none"]
    for name in wanted:
        if not is_done(options.work / name):
            run(name, all_jobs[name], options.work)
    lines = page(options.work, options.model)
    there = set(annotation_rows(options.work).get("model", ()))
    done = {"logistic"} if "gene_logistic" in there else set()  # knn may have brought it along
    missing = [name for name in all_jobs if not is_done(options.work / name) and name.split("_")[-1] not in done]
    if missing:
        lines += ["", f"Not run: {', '.join(missing)}."]
    about = machine() | versions(["torch", "scikit-learn", "scib-metrics", "harmonypy"])
    lines += ["", f"{about['cores']} cores of {about['processor']}; torch {about['torch']}."]
    stem = stem_of("cell_tasks", hardware_slug("cpu"), RESULTS)
    rows_json = json.loads(annotation_rows(options.work).to_json(orient="records"))
    stem.with_suffix(".json").write_text(json.dumps({"machine": about, "annotation": rows_json}, indent=1))
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{stem}.md")


if __name__ == "__main__":
    main()
