"""Expression at another read depth: ``cellfm enhance CELLS.h5ad --model FOLDER --target-depth 10000``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app

COLUMNS = {
    "pearson": "r",
    "pearson_expressed": "r,\nexpr.",
    "gene_pearson": "r by\ngene",
    "mae_expressed": "MAE,\nexpr.",
    "mre_expressed": "MRE,\nexpr.",
    "nmi": "NMI",
    "ari": "ARI",
}


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
    from cellfm_torch.enhance import enhance

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    settings = dict(options)
    cells = one_file(options["cells"])
    output = new_file(
        options["output"], f"{cells.stem}_enhanced.h5ad", ".h5ad", overwrite=options["overwrite"], source=cells
    )
    reading = options["data"] | {"genes": options["genes"]}
    console = Console()
    network = load_network(options)
    if options["downsample"] is not None:
        _score(network, cells, options, settings, reading, console)
    genes = options["gene_list"]
    wanted = genes if genes in ("measured", "all") else gene_names(genes) or []
    found = enhance(
        cells,
        network,
        target_depth=options["target_depth"],
        gene_list=wanted,
        accelerator=options["accelerator"],
        verbose=options["downsample"] is None,
        **reading,
    )
    write_genes(found, output)
    answer(output=output, cells=found.n_obs, genes=found.n_vars)
    what = f"layers['enhanced'] (log1p(CP10K) at {found.uns['cellfm_enhance']['rule']}), obsm['X_cellfm']"
    console.print(
        f"written: {output}, {found.n_obs:,} cells x {found.n_vars:,} genes: {what}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0


def load_network(options: dict[str, Any]) -> Any:
    """Return the network that options name, if it can do it."""
    from cellfm_torch.enhance.network import check_network, depth_rule
    from cellfm_torch.model.device import chosen_device
    from cellfm_torch.model.loading import load_model

    depth_rule(options["target_depth"])
    network: Any = load_model(Path(options["model_folder"]).expanduser())
    check_network(network)
    return network.eval().requires_grad_(False).to(chosen_device(options["accelerator"]))


def _score(
    network: Any, cells: Path, options: dict[str, Any], settings: dict[str, Any], reading: dict[str, Any], console: Any
) -> None:
    """Downsample, score, show and write."""
    from matplotlib.figure import Figure

    from cellfm_torch import __version__
    from cellfm_torch.commands.lists import shares_of, whole_numbers
    from cellfm_torch.commands.outputs import results_folder, write_settings, write_table
    from cellfm_torch.data.labelled import CellSet
    from cellfm_torch.data.report import print_report
    from cellfm_torch.enhance.evaluate import evaluate
    from cellfm_torch.files import write_text
    from cellfm_torch.plots.cells import save_figure
    from cellfm_torch.plots.depth import depth_curves
    from cellfm_torch.report.depth import render_depth, verdicts

    results = results_folder(options["results"], overwrite=options["overwrite"])
    shares, seeds = shares_of(options["downsample"], "downsample"), whole_numbers(options["seeds"], "seeds")
    given = CellSet.read(cells, network.input_spec, **reading)
    print_report(given.cells.reports)
    labels = None if options["label"] is None else given.column(options["label"], option="label").to_numpy()
    other = options["reference"]
    reference = None if other is None else CellSet.read(other, network.input_spec, **reading)
    scores = evaluate(
        network,
        given,
        shares,
        seeds=seeds,
        labels=labels,
        reference=reference,
        say=lambda line: console.print(line, style="dim", highlight=False),
    )
    for share in shares:
        console.print(_table(scores[scores["share"] == share], share))
    model = type(network).__name__
    for line in verdicts(scores, model):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    write_table(scores, results / "scores.csv")
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for i, (ax, metric) in enumerate(zip(figure.subplots(1, 2), ("pearson", "mae_expressed"), strict=True)):
        depth_curves(scores, metric, ax=ax, legend=i == 1)
    for ending in ("png", "pdf"):
        save_figure(figure, results / f"scores.{ending}")
    told = {"command": "cellfm enhance", "version": __version__, **settings}
    facts = [(str(k), json.dumps(v, default=str) if isinstance(v, dict | list) else str(v)) for k, v in told.items()]
    page = render_depth(title=f"Read depth: {cells.name}", scores=scores, model=model, facts=facts)
    write_text(results / "page.html", page)
    write_settings(settings, results)
    answer(results=results, scores=scores.groupby(["share", "model"], sort=False).mean(numeric_only=True).reset_index())
    console.print(f"scores: {results}", highlight=False, soft_wrap=True)


def _table(scores: Any, share: float) -> Any:
    from rich.table import Table

    number, seeds = scores["cells"].iloc[0], scores["seed"].nunique()
    title = f"{share:.0%} of the counts kept, {number:,} cells" + (f", mean over {seeds} seeds" if seeds > 1 else "")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0), min_width=60)
    table.add_column("", no_wrap=True)
    shown = {name: heading for name, heading in COLUMNS.items() if name in scores and scores[name].notna().any()}
    for heading in shown.values():
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for model, rows in scores.groupby("model", sort=False):
        means = rows[list(shown)].mean()
        table.add_row(str(model), *("-" if means.isna()[name] else f"{means[name]:.3f}" for name in shown))
    return table


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/enhance.yaml with overrides (default: the command line's) and run it."""
    return hydra_app.run(run, config="enhance", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
