"""Effects of perturbed genes, learned and scored: ``cellfm perturb train SCREEN.h5ad --model FOLDER``."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app
from cellfm_torch.quiet import quiet_lightning

PREDICTOR = "predictor"
WIDE = 108
"""Columns of a table over seeds."""


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

    from cellfm_torch.commands.lists import whole_numbers
    from cellfm_torch.commands.outputs import results_folder, write_settings
    from cellfm_torch.data.files import one_file
    from cellfm_torch.errors import UserError
    from cellfm_torch.job_folder import open_job
    from cellfm_torch.perturbation.gene.evaluate import chosen_baselines, evaluate
    from cellfm_torch.perturbation.gene.learned import METHODS, LearnOptions
    from cellfm_torch.perturbation.gene.screen import GenePerturbation

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    settings = dict(options)
    results = results_folder(options["results"], overwrite=options["overwrite"])
    seeds = whole_numbers(options["seeds"], "seeds")
    baselines = chosen_baselines(options["baselines"])
    fit = options["fit"] | options["trainer"]
    LearnOptions(**options["fit"])  # what is wrong shows before anything is read
    console = Console()

    def say(line: str, style: str = "") -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True, style=style)

    screen = GenePerturbation(
        one_file(options["cells"]),
        options["model_folder"],
        **{name: options[name] for name in ("condition", "control", "top_genes", "least_cells", "control_cells")},
        **{name: options[name] for name in ("sets", "coexpression")},
        device=str(_device(options)),
        seed=seeds[0],
        **options["data"],
        genes=options["genes"],
    )
    cells = screen.screen
    assert cells is not None
    for line in cells.said:
        say(line)
    several = sum(len(condition) > 1 for condition in cells.conditions)
    say(
        f"{cells.source}: {len(cells.conditions):,} perturbations, {several:,} of them of several genes; "
        f"{len(cells.control):,} control cells; {len(screen.readout):,} genes read out"
    )
    splits = _splits(options, cells, seeds)
    say(f"method {options['fit']['method']}: {METHODS[options['fit']['method']]}")
    keep = results / "parts"
    job = {name: value for name, value in settings.items() if name not in ("results", "overwrite", "final")}
    open_job(keep, job, overwrite=options["overwrite"])
    try:
        found = evaluate(
            screen,
            {seed: split for seed, split in splits.items() if split.test},
            baselines=baselines,
            cell_eval=options["cell_eval"],
            keep=keep,
            say=lambda line: say(line, "dim"),
            **fit,
        )
        if found.splits:
            _show(found, screen, console)
            _save(found, screen, settings, results)
        if options["final"] or not found.splits:
            _final(screen, found, results / PREDICTOR, say, fit | {"seed": seeds[0]})
    except KeyboardInterrupt:
        return hydra_app.interrupted(keep)
    except UserError:
        if not any(keep.glob("*.npz")):  # what cannot be done at all leaves nothing behind
            shutil.rmtree(keep)
        raise
    write_settings(settings | {"left_out": cells.said}, results)
    shutil.rmtree(keep, ignore_errors=True)
    answer(
        results=results,
        predictor=results / PREDICTOR if options["final"] or not found.splits else None,
        scores=found.summary() if found.splits else [],
    )
    say(f"results: {results}")
    return 0


def _device(options: dict[str, Any]) -> Any:
    from cellfm_torch.model.device import chosen_device

    return chosen_device(options["trainer"]["accelerator"])


def _splits(options: dict[str, Any], cells: Any, seeds: list[int]) -> dict[int, Any]:
    """Return the split of each seed, as the options say."""
    from cellfm_torch.data.genes import GeneVocab
    from cellfm_torch.errors import UserError, nearest
    from cellfm_torch.perturbation.gene.conditions import asked_conditions, is_control
    from cellfm_torch.perturbation.gene.effects import CONTROL
    from cellfm_torch.perturbation.gene.split_files import column_split, given_split
    from cellfm_torch.perturbation.gene.splits import no_split, simulation_split

    conditions, wanted = cells.conditions, str(options["split"])
    if options["split_column"] is not None:
        parts = cells.cells.column(options["split_column"], option="split_column")
        used = cells.codes >= 0
        own = [conditions[code] for code in cells.codes[used]]
        split = column_split(options["split_column"], own, list(parts[used]))
        return dict.fromkeys(seeds, split)
    if Path(wanted).suffix in (".json", ".csv"):
        vocab = GeneVocab(cells.cells.spec.genes, first_id=cells.cells.spec.first_id)

        def parse(word: str) -> Any:  # control is in no part, and files of others list it
            return CONTROL if is_control(word) else asked_conditions([word], vocab, option=wanted)[0]

        return dict.fromkeys(seeds, given_split(wanted, conditions, parse=parse))
    if wanted == "none":
        return {seeds[0]: no_split(conditions)}
    if wanted != "simulation":
        choices = ("simulation", "none")
        raise UserError(f"split={wanted}: choose simulation, none, or a .json or .csv file{nearest(wanted, choices)}")
    shares = {name: options[name] for name in ("test_share", "val_share")}
    return {seed: simulation_split(conditions, seed, **shares) for seed in seeds}


def _final(screen: Any, found: Any, folder: Path, say: Any, fit: dict[str, Any]) -> None:
    """Learn from all perturbations, for as many epochs as the evaluation needed, and save that."""
    options = dict(fit)
    if found.epochs:
        options["max_epochs"] = max(1, round(sum(found.epochs) / len(found.epochs)))
    number = len(screen.screen.conditions)
    say(f"predictor: learning from all {number:,} perturbations, {options['max_epochs']} epochs", "dim")
    screen.train(**options)
    screen.save(folder, overwrite=True)
    say(f"predictor: {folder}, of all {number:,} perturbations")


def _show(found: Any, screen: Any, console: Any) -> None:
    from rich.console import Console

    from cellfm_torch.commands.perturb_tables import reverse_table, score_table

    several = len(found.splits) > 1
    if several:  # a spread beside each figure takes more than the 80 columns of a log
        console = Console(width=max(console.width, WIDE))
    for group in dict.fromkeys(group for split in found.splits.values() for group in split.groups):
        console.print(score_table(found.summary(), group, several=several))
    console.print(reverse_table(found.reverse))


def _save(found: Any, screen: Any, settings: dict[str, Any], results: Path) -> None:
    from matplotlib.figure import Figure

    from cellfm_torch import __version__
    from cellfm_torch.commands.outputs import write_genes, write_table
    from cellfm_torch.commands.perturb_tables import effects_table, page_of
    from cellfm_torch.files import write_text
    from cellfm_torch.perturbation.gene.split_files import save_split
    from cellfm_torch.plots.cells import save_figure
    from cellfm_torch.plots.perturbation import score_bars

    for seed, split in found.splits.items():
        save_split(split, results / f"split_{seed}.json")
    summary = found.summary()
    write_table(found.scores, results / "scores.csv")
    write_table(summary, results / "summary.csv")
    write_table(found.reverse, results / "reverse.csv")
    if len(found.cell_eval):
        write_table(found.cell_eval, results / "cell_eval.csv")
    write_genes(effects_table(found, type(screen.network).__name__), results / "predictions.h5ad")
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    model = type(screen.network).__name__
    for i, (ax, metric) in enumerate(zip(figure.subplots(1, 2), ("pearson_delta", "mse_top20"), strict=True)):
        score_bars(summary, metric, model=model, ax=ax, legend=i == 1)
    for ending in ("png", "pdf"):
        save_figure(figure, results / f"scores.{ending}")
    told = {"command": "cellfm perturb train", "version": __version__, **settings}
    facts = [(str(k), json.dumps(v, default=str) if isinstance(v, dict | list) else str(v)) for k, v in told.items()]
    write_text(results / "page.html", page_of(found, screen, facts))


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/perturb_train.yaml with overrides (default: the command line's) and run it."""
    return hydra_app.run(run, config="perturb_train", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
