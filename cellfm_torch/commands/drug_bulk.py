"""Bulk drug response: ``cellfm drug bulk LINES --ic50 TABLE --model FOLDER``."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app
from cellfm_torch.errors import UserError
from cellfm_torch.quiet import quiet_lightning


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

    from cellfm_torch.commands.lists import listed, whole_numbers
    from cellfm_torch.commands.outputs import results_folder
    from cellfm_torch.drug.bulk import drug_response

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    options["seeds"] = whole_numbers(options["seeds"], "seeds")
    files = listed(options["expression"])
    if len(files) != 1:
        raise UserError(f"give one file of cell lines, not {len(files)}")
    options["expression"] = str(files[0])
    settings = dict(options)
    results = results_folder(options.pop("results"), overwrite=options["overwrite"])
    keep = results / "parts"
    console = Console()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    asked = {name: options.pop(name) for name in ("expression", "ic50", "model_folder")}
    try:
        result = drug_response(*asked.values(), keep=keep, say=say, fit_options=options.pop("fit"), **options)
    except KeyboardInterrupt:
        return hydra_app.interrupted(keep)
    console.print(_table(result.summary()))
    for line in result.verdicts():
        say(line)
    _save(result, settings, results)
    shutil.rmtree(keep, ignore_errors=True)
    answer(results=results, scores=result.summary())
    say(f"results: {results}")
    return 0


def _save(result: Any, settings: dict[str, Any], results: Path) -> None:
    from cellfm_torch.commands.outputs import write_settings, write_table
    from cellfm_torch.drug.baselines import BASELINES
    from cellfm_torch.drug.scores import METRICS
    from cellfm_torch.files import write_text
    from cellfm_torch.report.drug import render_drug

    # A folder of results that is not whole has no settings.json.
    (results / "settings.json").unlink(missing_ok=True)
    summary, per_drug, predictions = result.summary(), result.per_drug(), result.predictions
    splits = [split.as_json(result.responses) for split in result.splits]
    verdicts, notes = result.verdicts(), list(result.responses.notes)
    write_table(result.scores, results / "scores.csv")
    write_table(summary, results / "summary.csv")
    write_table(per_drug, results / "per_drug.csv")
    write_table(predictions, results / "predictions.csv")
    write_table(result.joined, results / "joined.csv")
    write_text(results / "split.json", json.dumps(splits, indent=1) + "\n")
    simple = summary[summary["method"].isin(BASELINES)]
    given = "" if settings["unit"] == "ln_uM" else f", from {settings['unit']}"
    facts = {
        "expression": str(settings["expression"]),
        "IC50": f"{settings['ic50']}, ln(uM){given}",
        "model": str(settings["model_folder"]),
        "split": f"{settings['split']}, seeds {', '.join(map(str, settings['seeds']))}. Validation pairs, held out in "
        "the same way, say when training stops; test pairs are read for the scores only.",
        "model's prediction": "What means of drug and line leave unsaid, where the split leaves these known, by a "
        "network on the line's embedding and the drug's fingerprint (or its name where there are no SMILES).",
        "baselines": "Means shrunk by one pair at the mean of all. Ridge: per drug, on the 2,000 most variable genes "
        "of the training lines, beyond the same means; the validation pairs choose the penalty. Most similar drug: by "
        "Tanimoto similarity.",
        "in a drug": "Mean over drugs with at least five test pairs, which knowing the drug's mean does not help.",
    }
    text = render_drug(
        title=f"Drug response: {Path(str(settings['expression'])).name}",
        says=[*notes, *verdicts],
        summary=summary,
        metrics=METRICS,
        per_drug=per_drug,
        best=str(simple.loc[simple["rmse"].idxmin(), "method"]),
        predictions=predictions,
        splits=splits,
        facts=facts.items(),
    )
    write_text(results / "page.html", text)
    write_settings(settings | {"notes": notes, "verdicts": verdicts, "epochs": _epochs(result)}, results)


def _epochs(result: Any) -> dict[str, int]:
    return {f"{name}, seed {seed}": number for (name, seed), number in result.epochs.items()}


def _table(summary: Any) -> Any:
    """Return the summary for people: mean, and standard deviation over seeds."""
    from rich.table import Table

    from cellfm_torch.commands.figures import with_spread

    # As the page calls them.
    columns = {"pearson": "Pearson", "rmse": "RMSE"}
    columns |= {"pearson_drug": "Pearson\nin a drug", "rmse_drug": "RMSE\nin a drug"}
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for heading in columns.values():
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for row in summary.to_dict("records"):
        table.add_row(row["method"], *(with_spread(row[name], row[f"{name}_sd"]) for name in columns))
    return table


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/drug_bulk.yaml with overrides (default: the command line's) and run it."""
    return hydra_app.run(run, config="drug_bulk", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
