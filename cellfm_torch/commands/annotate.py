"""Cell types for cells: ``cellfm annotate --reference REF --query Q --model FOLDER``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch import __version__
from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app
from cellfm_torch.quiet import quiet_lightning

TABLES = ("scores", "per_class", "confusion")


@quiet_lightning()
def annotate(cfg: Any) -> int:
    """Run one job from a composed configuration; returns the exit code.

    Raises
    ------
    UserError
        For what the user can put right; nothing has been written then.
    """
    from omegaconf import OmegaConf
    from rich.console import Console

    from cellfm_torch.annotation.evaluate import Comparison
    from cellfm_torch.annotation.job import Job, others
    from cellfm_torch.annotation.methods import METHODS, check_method
    from cellfm_torch.commands.cells import write_cells

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    check_method(options["method"])
    results, output = _places(options)
    console = Console()
    job = Job.read(options)
    console.print(f"method {options['method']}: {METHODS[options['method']]}", highlight=False, soft_wrap=True)
    comparison = Comparison(job.question, options["method"], job.embeddings, job.fit_options, others(options))
    seeds = options["seeds"]
    if job.plan(seeds[0]):
        found = comparison.run(
            job.plan,
            seeds,
            say=lambda line: console.print(line, style="dim", highlight=False),
            keep=lambda tables: _write_tables(tables, results),  # as soon as there are any: training takes long
        )
        console.print(_table(found.summary(), several=len(seeds) > 1))
    if output is not None:
        fitted = comparison.whole or job.fit(seeds[0])
        labelled = job.label_query(fitted, version=__version__)
        job.save(fitted, results / "annotator")
        unknown = labelled.obs["cellfm_unknown"]
        console.print(
            f"unknown: {unknown.sum():,} of {len(unknown):,} cells; of held-out reference cells "
            f"{fitted.rejection.false_rejections:.1%} were rejected by mistake",
            highlight=False,
            soft_wrap=True,
        )
    _write_settings(options | {"version": __version__} | job.about(), results / "settings.json")
    if output is not None:  # last: where it is, all is
        write_cells(labelled, output)
        columns = "cellfm_label, cellfm_probability, cellfm_runner_up, cellfm_unknown"
        console.print(f"labels:  {output}, obs {columns}", highlight=False, soft_wrap=True)
    answer(results=results, output=output, scores=found.summary() if job.plan(seeds[0]) else [])
    console.print(f"results: {results}", highlight=False, soft_wrap=True)
    return 0


def _places(options: dict[str, Any]) -> tuple[Path, Path | None]:
    """Return the folder of results and the file of labelled cells, neither of which may be lost to a mistake."""
    from cellfm_torch.errors import UserError

    results = Path(options["results"]).expanduser()
    if options["query"] is None and options["output"] is not None:
        raise UserError(f"output={options['output']}: there is no query to label: give query=FILE")
    output = None if options["query"] is None else Path(options["output"] or results / "query.h5ad").expanduser()
    settings = results / "settings.json"
    interrupted = output is not None and not output.exists() and _is_of(settings, options)
    for path in (None if interrupted else settings, output):
        if path is not None and path.exists() and not options["overwrite"]:
            raise UserError(f"{path}: exists already: choose another place, or set overwrite=true", page="files")
    if results.exists() and not results.is_dir():
        raise UserError(f"results={results}: is a file: give the name of a folder", page="files")
    if output is not None and output.resolve() == Path(options["query"]).expanduser().resolve():
        raise UserError(f"output={output}: is the query itself: give another name")
    return results, output


def _is_of(settings: Path, options: dict[str, Any]) -> bool:
    """Whether a file of settings is one of the same options."""
    try:
        there = json.loads(settings.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    given = json.loads(json.dumps(options, default=str))
    return isinstance(there, dict) and all(there.get(name) == value for name, value in given.items())


def _write_tables(tables: Any, results: Path) -> None:
    from cellfm_torch.files import write_text

    frames = {name: getattr(tables, name) for name in TABLES} | {"summary": tables.summary()}
    for name, frame in frames.items():
        write_text(results / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))


def _write_settings(settings: dict[str, Any], path: Path) -> None:
    from cellfm_torch.files import write_text

    write_text(path, json.dumps(settings, indent=2, default=str) + "\n")


def _table(summary: Any, *, several: bool) -> Any:
    """Return the summary for people: mean, and standard deviation over seeds where there are several."""
    from rich.table import Table

    from cellfm_torch.commands.figures import with_spread

    title = "Cells of learned types" + (": mean ± standard deviation over seeds" if several else "")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    columns = {
        "accuracy": "accuracy",
        "macro_f1": "macro F1",
        "rare_f1": "rare types",
        "false_rejections": "falsely unknown",
    }
    for heading in ("evaluation", "model"):
        table.add_column(heading, no_wrap=True)
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for row in summary.to_dict("records"):
        figures = (with_spread(row[name], row[f"{name}_sd"]) for name in columns)
        table.add_row(row["evaluation"], row["model"], *figures)
    return table


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/annotate.yaml with overrides (default: the command line's) and annotate."""
    return hydra_app.run(annotate, config="annotate", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
