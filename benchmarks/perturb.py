"""Effects of perturbed genes: what is planted into real cells and found again, beside baselines, in one page.

    python benchmarks/perturb.py --model MODEL --work FOLDER [--sets SETS.gmt] [--seeds 0,1,2] [--only NAME,NAME]

Screens are simulated from the bundled PBMC3k (`cellfm_torch.perturbation.gene.simulation`), one per seed, which is that
of the split too: what is true is known, down to the genes that only two perturbed genes together move. Predictions stay
in the work folder, so that an interrupted run goes on. With a small model the page says nothing of CellFM's quality on
real screens.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.cell_tasks import described  # noqa: E402
from benchmarks.machine import hardware_slug, machine, versions  # noqa: E402
from benchmarks.report import RESULTS, stem_of  # noqa: E402
from cellfm_torch.paths import CROPSEQ, PBMC3K  # noqa: E402
from cellfm_torch.perturbation.gene.evaluate import BASELINES, Evaluation, evaluate  # noqa: E402
from cellfm_torch.perturbation.gene.scores import METRICS, compare, summarise  # noqa: E402
from cellfm_torch.perturbation.gene.screen import GenePerturbation  # noqa: E402
from cellfm_torch.perturbation.gene.simulation import Simulated, simulate  # noqa: E402
from cellfm_torch.perturbation.gene.splits import simulation_split  # noqa: E402
from cellfm_torch.quiet import quiet_lightning  # noqa: E402

SCREEN: dict[str, Any] = {"doubles": 80, "cells_per_condition": 150, "control_cells": 1000}
VARIANTS: dict[str, dict[str, Any]] = {
    "frozen": {"baselines": BASELINES},
    "frozen, gene sets": {"needs": "sets"},
    "frozen, co-expression": {"screen": {"coexpression": True}},
    "frozen, nothing measured": {"fit": {"measured": False}},
    "lora": {"fit": {"method": "lora", "max_epochs": 60}},
    "full": {"fit": {"method": "full", "max_epochs": 60}},
}
"""Ways to train, by name; baselines stand beside the first."""


def run(name: str, options: argparse.Namespace, seed: int) -> tuple[Evaluation, Simulated, float]:
    """Return what one way to train makes of one screen, the screen, and the seconds it took."""
    variant = VARIANTS[name]
    simulated = simulate(anndata.read_h5ad(PBMC3K), seed=seed, **SCREEN)
    given = dict(variant.get("screen", {}))
    if variant.get("needs") == "sets":
        given["sets"] = options.sets
    keep = options.work / name.replace(" ", "_").replace(",", "")
    keep.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    screen = GenePerturbation(simulated.adata, options.model, seed=seed, **given)
    split = simulation_split(screen.screen.conditions, seed)  # type: ignore[union-attr]
    found = evaluate(
        screen,
        {seed: split},
        baselines=variant.get("baselines", ()),
        keep=keep,
        enable_progress_bar=False,
        accelerator="cpu",
        **variant.get("fit", {}),
    )
    return found, simulated, time.monotonic() - began


def planted_rows(found: Evaluation, simulated: Simulated, seed: int) -> list[dict[str, Any]]:
    """Return errors on the genes that only two perturbed genes together move, in pairs that were held out."""
    truth, measured, rows = simulated.truth, found.truth[seed], []
    position = {gene: i for i, gene in enumerate(measured.genes)}
    for i, condition in enumerate(measured.conditions):
        group = found.splits[seed].group[condition]
        if len(condition) < 2:
            continue
        together = truth.interaction_lfc(condition)
        columns = [position[g] for g, x in zip(truth.genes, together, strict=True) if x and g in position]
        for (_, model), predicted in found.predicted.items():
            delta = predicted[i] - measured.control
            if columns:
                error = float(np.mean((delta[columns] - measured.delta[i][columns]) ** 2))
                rows.append({"model": model, "seed": seed, "group": group, "pairs": "interact", "mse": error})
            else:
                error = float(np.mean((delta - measured.delta[i]) ** 2))
                rows.append({"model": model, "seed": seed, "group": group, "pairs": "only add", "mse": error})
    return rows


def table(frame: pd.DataFrame, rows: str, columns: list[str], digits: dict[str, int]) -> list[str]:
    """Return a Markdown table of means and standard deviations, by the rows' names in their order."""
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for name, part in frame.groupby(rows, sort=False):
        cells = []
        for column in columns:
            values = part[part["column"] == column]["value"]
            if not len(values) or values.isna().all():
                cells.append("-")
                continue
            places = digits.get(column, 3)
            spread = f" ± {values.std():.{places}f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.{places}f}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def score_lines(scores: pd.DataFrame) -> list[str]:
    """Return the tables of scores, one per group of tested conditions."""
    lines = []
    by_seed = scores.groupby(["model", "group", "seed"], sort=False)[list(METRICS)].mean().reset_index()
    for group in dict.fromkeys(summarise(scores)["group"]):
        part = by_seed[by_seed["group"] == group].melt(["model", "seed"], list(METRICS), "column", "value")
        number = scores[(scores["group"] == group)].groupby(["model", "seed"]).size().mean()
        lines += ["", f"### {group}, {number:.0f} conditions a seed", ""]
        lines += table(part, "model", list(METRICS), {"mse": 4})
    return lines


def reverse_lines(reverse: pd.DataFrame) -> list[str]:
    """Return the table of reverse perturbation."""
    frame = reverse.assign(column="k=" + reverse["k"].astype(str), value=reverse["hits"])
    ks = list(dict.fromkeys(frame["column"]))
    chance = frame[frame["model"] == frame["model"].iloc[0]].assign(model="chance")
    chance["value"] = chance["chance"]
    return table(pd.concat([frame, chance]), "model", ks, {})


def planted_lines(rows: pd.DataFrame) -> list[str]:
    """Return what was found of planted interactions."""
    lines = []
    for pairs, what in (
        ("interact", "Held-out pairs that interact: MSE on the 30 genes that only both together move"),
        ("only add", "Held-out pairs that only add up: MSE over all genes"),
    ):
        part = rows[rows["pairs"] == pairs].groupby(["model", "group", "seed"], sort=False)["mse"].mean().reset_index()
        groups = [g for g in ("combo seen 2", "combo seen 1", "combo seen 0") if (part["group"] == g).any()]
        part = part.rename(columns={"group": "column", "mse": "value"})
        lines += ["", f"### {what}", "", *table(part, "model", groups, dict.fromkeys(groups, 4))]
    return lines


def crop_seq(options: argparse.Namespace, seeds: list[int]) -> pd.DataFrame:
    """Return scores on the bundled CROP-seq screen, real cells of which 28 genes are known."""
    screen = GenePerturbation(CROPSEQ, options.model)
    assert screen.screen is not None
    splits = {seed: simulation_split(screen.screen.conditions, seed) for seed in seeds}
    keep = options.work / "cropseq"
    keep.mkdir(parents=True, exist_ok=True)
    return evaluate(screen, splits, keep=keep, enable_progress_bar=False, accelerator="cpu").scores


def page(options: argparse.Namespace, seeds: list[int], wanted: list[str]) -> list[str]:
    """Run what is asked for and return the lines of the page."""
    scores, reverse, planted, took, noise = [], [], [], {}, []
    for name in wanted:
        took[name] = 0.0
        for seed in seeds:
            found, simulated, seconds = run(name, options, seed)
            took[name] += seconds
            model = next(iter(dict.fromkeys(found.scores["model"])))
            rename = {model: f"{model} {name}", "random weights": "random weights, frozen"}
            scores.append(found.scores.replace({"model": rename}))
            reverse.append(found.reverse.replace({"model": rename}))
            rows = pd.DataFrame(planted_rows(found, simulated, seed))
            planted.append(rows.replace({"model": rename}))
            if name == wanted[0]:
                noise.append(float(found.truth[seed].noise.mean()))  # type: ignore[union-attr]
            print(f"{name}, seed {seed}: {seconds:.0f} s", flush=True)
    all_scores = pd.concat(scores, ignore_index=True)
    first = next(iter(dict.fromkeys(all_scores["model"])))
    beside = compare(all_scores[~all_scores["model"].str.match(rf"{first.split()[0]} (?!{wanted[0]}$)")], first)
    worse = beside[beside["gain"] <= 0]
    lines = ["# Perturbed genes", "", f"Model: {described(options.model)}."]
    lines += [
        "A small model trained on PBMC3k alone says nothing of CellFM. Screens are simulated: CD4 T cells of PBMC3k, "
        "30 genes of 6 modules knocked down, 80 doubles, 150 cells a condition; two pairs of modules interact.",
        "",
        f"Mean ± standard deviation over {len(seeds)} seeds, each a screen and a split of its own. Pearson is of the "
        f"change from control. The measured means carry noise: no model can have an MSE below {np.mean(noise):.4f}, "
        "the mean variance of a measured change. lora and full are trained for 60 epochs, frozen for 150.",
        "",
        f"{first} beside the best baseline of each score and group: better in {len(beside) - len(worse)} of "
        f"{len(beside)}" + (": worse or equal in " if len(worse) else ""),
    ]
    lines[-1] += "; ".join(f"{row.group} {row.metric} ({row.baseline})" for row in worse.itertuples())
    lines += score_lines(all_scores)
    lines += ["", "### Reverse perturbation: the right one among the first k of all 110", ""]
    lines += reverse_lines(pd.concat(reverse, ignore_index=True))
    lines += planted_lines(pd.concat(planted, ignore_index=True))
    crop = crop_seq(options, [0, 1, 2, 3, 4])
    lines += ["", "## CROP-seq of 28 genes (real cells; only the targets were kept, so it checks the code)"]
    lines += score_lines(crop)
    lines += ["", "Seconds, of all seeds: " + ", ".join(f"{name} {s:.0f}" for name, s in took.items() if s > 5) + "."]
    return lines


def main() -> None:
    """Run what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", type=Path, default=None, help="gene sets for one of the ways to train")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default=None, help="ways to train, separated by ;")
    options = parser.parse_args()
    options.model, options.work = options.model.resolve(), options.work.resolve()
    wanted = [name for name in VARIANTS if options.sets is not None or VARIANTS[name].get("needs") != "sets"]
    if options.only is not None:
        wanted = [name for name in wanted if name in options.only.split(";")]
    warnings.simplefilter("ignore")
    with quiet_lightning():
        lines = page(options, [int(seed) for seed in options.seeds.split(",")], wanted)
    about: dict[str, Any] = machine() | versions(["torch", "scikit-learn"])
    lines += ["", f"{about['cores']} cores of {about['processor']}; torch {about['torch']}."]
    stem = stem_of("perturb", hardware_slug("cpu"), RESULTS)
    stem.with_suffix(".json").write_text(json.dumps({"machine": about, "page": lines}, indent=1))
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{stem}.md")


if __name__ == "__main__":
    main()
