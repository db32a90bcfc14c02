"""Which perturbation leads from a state to another: ``cellfm perturb reverse CELLS --by state --from A --to B``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.commands import hydra_app


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
    from cellfm_torch.commands.outputs import new_file, write_table
    from cellfm_torch.commands.perturb_predict import load_predictor
    from cellfm_torch.data.files import one_file

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    cells = one_file(options["cells"])
    output = new_file(options["output"], "", ".csv", overwrite=options["overwrite"])
    predictor = load_predictor(options)
    table = predictor.reverse(
        cells,
        by=options["by"],
        start=options["start"],
        target=options["target"],
        candidates=gene_names(options["candidates"]),
        pairs=options["pairs"],
        rank_by=options["rank_by"],
    )
    write_table(table, output)
    console = Console()
    console.print(_table(table.head(options["top"]), f"{options['start']} -> {options['target']}", len(table)))
    answer(output=output, candidates=table.head(options["top"]))
    console.print(f"written: {output}, {len(table):,} candidates", highlight=False, soft_wrap=True)
    return 0


def _table(rows: Any, what: str, number: int) -> Any:
    from rich.table import Table

    title = f"{what}: the best of {number:,} candidates"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, min_width=60)
    table.add_column("rank", justify="right")
    table.add_column("perturbation", no_wrap=True)
    for heading in ("Pearson", "MSE"):
        table.add_column(heading, justify="right")
    for row in rows.itertuples():
        table.add_row(str(row.rank), row.condition, f"{row.pearson:.3f}", f"{row.mse:.4f}")
    return table


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/perturb_reverse.yaml with overrides (default: the command line's) and run it."""
    return hydra_app.run(run, config="perturb_reverse", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
