"""Read-depth enhancement of real cells that the model has not seen, beside baselines, in one page of results.

    python benchmarks/enhance.py --run RUN --work FOLDER [--shares 0.01,0.05,0.1,0.2] [--seeds 0,1,2]

RUN is the folder of a pretraining on the bundled PBMC3k, of a model that reads depths: `cellfm train
task.read_depth=true task.zeros=true`. Its held-out cells are downsampled and scored; its training cells are the other
cells of which a baseline takes the mean. With a small model the page says nothing of CellFM or scFoundation.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.cell_tasks import described, number  # noqa: E402
from benchmarks.machine import hardware_slug, machine, versions  # noqa: E402
from benchmarks.report import RESULTS, stem_of  # noqa: E402
from cellfm_torch import CellDataModule, load_model  # noqa: E402
from cellfm_torch.paths import PBMC3K  # noqa: E402
from cellfm_torch.plots.depth import SHORT, WORDS  # noqa: E402
from cellfm_torch.report.depth import REASONS, verdicts  # noqa: E402

MIN_GENES, SEED = 200, 0
"""Of the pretraining experiments; its seed is that of the split."""


def parts(model: Path, work: Path) -> tuple[Path, Path]:
    """Write the held-out and the training cells of a run; returns the files."""
    network: Any = load_model(model)
    data = CellDataModule(PBMC3K, input_spec=network.input_spec, min_genes=MIN_GENES, seed=SEED, verbose=False)
    data.setup()
    cells, files = anndata.read_h5ad(PBMC3K), []
    for name, rows in (("held_out", data.val_cells), ("train", data.train_cells)):
        files.append(work / f"{name}.h5ad")
        cells[data.obs.index[rows]].copy().write_h5ad(files[-1])
    return files[0], files[1]


def page(scores: pd.DataFrame, model: str) -> list[str]:
    """Return the tables and what they say."""
    lines = [f"* {line}" for line in verdicts(scores, model)]
    metrics = [name for name in WORDS if name in scores]
    lines += ["", *(f"{line}\n" for line in REASONS), f"{'; '.join(f'{SHORT[m]}: {WORDS[m]}' for m in metrics)}."]
    for share, part in scores.groupby("share", sort=False):
        lines += ["", f"## {share:.0%} of the counts, {part['cells'].iloc[0]:,} cells", ""]
        lines += [f"| | {' | '.join(SHORT[name] for name in metrics)} |", "|---|" + "---|" * len(metrics)]
        grouped = part.groupby("model", sort=False)[metrics]
        means, deviations = grouped.mean(), grouped.std()
        for name in means.index:
            cells = (number(means.loc[name, metric], deviations.loc[name, metric]) for metric in metrics)
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Run the command and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shares", default="0.01,0.05,0.1,0.2")
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    work, model = options.work.resolve(), (options.run / "model").resolve()
    work.mkdir(parents=True, exist_ok=True)
    held_out, train = parts(model, work)
    command = [sys.executable, "-m", "cellfm_torch.cli", "enhance", str(held_out), "--model", str(model)]
    command += [f"downsample=[{options.shares}]", "--label", "cell_type", f"seeds=[{options.seeds}]"]
    command += [f"reference={train}", "--results", str(work / "results"), "--output", str(work / "out.h5ad")]
    subprocess.run([*command, "--overwrite"], check=True)
    scores = pd.read_csv(work / "results" / "scores.csv")
    name = str(scores["model"].iloc[0])
    lines = ["# Read-depth enhancement", "", f"Model: {described(model)}, trained on the other cells of PBMC3k.", ""]
    lines += [
        "Held-out cells of the bundled PBMC3k, counts kept with a probability; mean ± standard deviation over seeds."
    ]
    lines += ["", *page(scores, name)]
    about: dict[str, Any] = machine() | versions(["torch", "scikit-learn"])
    lines += ["", f"{about['cores']} cores of {about['processor']}; torch {about['torch']}."]
    stem = stem_of("enhance", hardware_slug("cpu"), RESULTS)
    stem.with_suffix(".json").write_text(json.dumps({"machine": about, "page": lines}, indent=1))
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{stem}.md")


if __name__ == "__main__":
    main()
