"""What a model knows about genes, on real cells and beside baselines, in one page of results.

    python benchmarks/gene_tasks.py --data FOLDER --model MODEL --work FOLDER [--only NAME,NAME]

FOLDER of the data holds pbmc3k.h5ad with cell types and genesets/ (gene sets, labelled genes), which are not part of
this project. Each job is a `cellfm genes` command whose results stay in the work folder; what is done is kept.
The page says which jobs there are. With a small model it says nothing about CellFM's quality.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.cell_tasks import described, number  # noqa: E402
from benchmarks.machine import hardware_slug, machine, versions  # noqa: E402
from benchmarks.report import RESULTS, stem_of  # noqa: E402

GO, HALLMARK = "enrichr.GO_Biological_Process_2021.gmt", "h.all.v2026.1.Hs.symbols.gmt"
LABELS = "geneformer_gene_labels_symbols.csv"
DONE = "done.json"
PICTURES = {"relations": "relations_hallmark/results/scores.png", "specific": "specific/results/genes.png"}
"""Copied beside the page, by the word in their name."""


def jobs(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the commands by name; results go to the folder of that name."""
    cells, sets, work = str(options.data / "pbmc3k.h5ad"), options.data / "genesets", options.work
    model, genes = ["--model", str(options.model)], str(work / "embed" / "genes.h5ad")
    both = ["keys=[X_static,X_context]", *model, f"embeddings={genes}"]
    found = {
        "embed": ["embed", cells, *model, "--output", genes],
        "function_binary": ["function", *both, "--labels", str(sets / LABELS)],
        "function_go": ["function", *both, "--labels", str(sets / GO)],
        "modules": ["modules", genes, "--cells", cells, "--sets", str(sets / GO), "--by", "cell_type"],
        "relations_go": ["relations", cells, *model, "--sets", str(sets / GO)],
        "relations_hallmark": ["relations", cells, *model, "--sets", str(sets / HALLMARK), "--by", "cell_type"],
        "specific": ["specific", cells, *model, "--by", "cell_type", "--biotype", "lncRNA"],
        "whatif": ["whatif", cells, *model, "--by", "cell_type", "groups=[B,NK,CD14+ Mono]"],
    }
    cellfm = [sys.executable, "-m", "cellfm_torch.cli", "genes"]
    for name, typed in found.items():
        where = [] if name == "embed" else ["--results", str(work / name / "results")]
        found[name] = [*cellfm, *typed, *where, "overwrite=true"]
    return found


def run(name: str, command: list[str], work: Path) -> None:
    """Run one job, its words into a log, and keep how much memory it took at most."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    with (work / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        _, status, used = _wait(process)
    if status == 0:
        (folder / DONE).write_text(json.dumps({"peak_gb": used.ru_maxrss * 1024 / 1e9}))
    print(f"{name}: {'done' if status == 0 else f'exit code {status}, see {name}.log'}", flush=True)


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, int, resource.struct_rusage]:
    import os

    pid, status, used = os.wait4(process.pid, 0)
    return pid, os.waitstatus_to_exitcode(status), used


def table_of(frame: pd.DataFrame, first: list[str], figures: dict[str, str]) -> list[str]:
    """Return a Markdown table: texts, then figures with their spread where there is one."""
    lines = ["| " + " | ".join([*first, *figures.values()]) + " |", "|" + "---|" * (len(first) + len(figures))]
    for _, row in frame.iterrows():
        shown = [str(row[name]).replace("|", "\\|") for name in first] + [
            number(row[name], row.get(f"{name}_sd")) for name in figures
        ]
        lines.append(f"| {' | '.join(shown)} |")
    return lines


def function_lines(work: Path) -> list[str]:
    """Return what predicting labels and terms gave."""
    lines: list[str] = []
    for name in ("function_binary", "function_go"):
        file = work / name / "results" / "summary.csv"
        if file.is_file():
            frame = pd.read_csv(file)
            names = {"accuracy": "accuracy", "macro_f1": "macro F1", "auroc": "AUROC", "aupr": "AUPR", "fmax": "Fmax"}
            figures = {key: text for key, text in names.items() if key in frame}
            title = "Gene function: folds by gene, mean ± standard deviation over 5 folds and 5 seeds"
            lines += ["", f"## {title}", "", *table_of(frame, ["task", "features", "probe"], figures)]
    return lines


def relation_lines(work: Path) -> list[str]:
    """Return how well maps tell which genes share a set."""
    lines: list[str] = []
    figures = {
        "aupr": "AUPR",
        "aupr_ratio": "over chance",
        "early_precision": "early precision",
        "early_ratio": "over chance",
    }
    for name, what in (("relations_go", "GO terms, all cells"), ("relations_hallmark", "Hallmark sets, by cell type")):
        file = work / name / "results" / "scores.csv"
        if file.is_file():
            grouped = pd.read_csv(file).groupby("relation", sort=False)[list(figures)]
            frame = grouped.mean().join(grouped.std().add_suffix("_sd")).reset_index()
            groups = pd.read_csv(file)["group"].nunique()
            spread = f" ± standard deviation over {groups} cell types" if groups > 1 else ""
            lines += ["", f"## Pairs of genes that share a set: {what}{spread}", ""]
            lines += table_of(frame, ["relation"], figures)
    return lines


def said(work: Path, name: str, *, last: int, without: tuple[str, ...] = ()) -> list[str]:
    """Return the last lines that a job printed."""
    log = work / f"{name}.log"
    if not (work / name / DONE).is_file() or not log.is_file():
        return []
    lines = [line.rstrip() for line in log.read_text(encoding="utf-8").splitlines()]
    kept = [line for line in lines if line and not line.startswith(without)][-last:]
    return ["", f"## {name}: what the command says", "", "```", *kept, "```"]


def page(work: Path, model: Path) -> list[str]:
    """Return the lines of the page."""
    lines = ["# Gene tasks", "", f"Model: {described(model)}."]
    lines += ["A small model trained on PBMC3k alone says nothing of CellFM."]
    lines += function_lines(work) + relation_lines(work)
    without = ("results:", "Weights", "Editing", "Maps", "Reading", *(f"{i}" for i in range(10)))
    lines += said(work, "modules", last=26, without=without)
    lines += said(work, "specific", last=42, without=without) + said(work, "whatif", last=34, without=without)
    peaks = {file.parent.name: json.loads(file.read_text())["peak_gb"] for file in sorted(work.glob(f"*/{DONE}"))}
    memory = ", ".join(f"{name} {peak:.2f} GB" for name, peak in peaks.items())
    return [*lines, "", f"Peak memory of the commands: {memory}."]


def main() -> None:
    """Run what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default=None, help="names of jobs; none: only write the page")
    options = parser.parse_args()
    options.data, options.model, options.work = (x.resolve() for x in (options.data, options.model, options.work))
    options.work.mkdir(parents=True, exist_ok=True)
    all_jobs = jobs(options)
    wanted = list(all_jobs) if options.only is None else [n for n in options.only.split(",") if n != "none"]
    for name in wanted:
        if not (options.work / name / DONE).is_file():
            run(name, all_jobs[name], options.work)
    lines = page(options.work, options.model)
    if missing := [name for name in all_jobs if not (options.work / name / DONE).is_file()]:
        lines += ["", f"Not run: {', '.join(missing)}."]
    about: dict[str, Any] = machine() | versions(["torch", "scikit-learn", "igraph"])
    lines += ["", f"{about['cores']} cores of {about['processor']}; torch {about['torch']}."]
    stem = stem_of("gene_tasks", hardware_slug("cpu"), RESULTS)
    for word, file in PICTURES.items():
        if (options.work / file).is_file():
            picture = stem.with_name(f"{stem.name}_{word}.png")
            shutil.copyfile(options.work / file, picture)
            lines += ["", f"![{word}]({picture.name})"]
    stem.with_suffix(".json").write_text(json.dumps({"machine": about, "page": lines}, indent=1))
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{stem}.md")


if __name__ == "__main__":
    main()
