"""Prepare a store: ``cellfm prepare SOURCE... --output STORE``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch import __version__
from cellfm_torch.answers import answer
from cellfm_torch.command_line import USER_ERROR, complain
from cellfm_torch.commands import hydra_app


def prepare(cfg: Any) -> int:
    """Run one job from a composed configuration; returns the exit code: 2 where a source could not be used.

    Raises
    ------
    UserError
        For what the user can put right.
    """
    from omegaconf import OmegaConf
    from rich.console import Console

    from cellfm_torch.commands.file_progress import FileProgress
    from cellfm_torch.commands.store_page import write_page
    from cellfm_torch.data.files import find_inputs
    from cellfm_torch.data.options import ReadOptions
    from cellfm_torch.data.report import MOST_WARNINGS
    from cellfm_torch.data.store import Store
    from cellfm_torch.data.store_write import StoreOptions
    from cellfm_torch.data.store_write import prepare as add
    from cellfm_torch.errors import UserError

    options: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for name in ("shard_cells", "block_cells", "processes"):
        if options[name] is not None and options[name] < 1:
            raise UserError(f"{name}={options[name]}: must be at least 1")
    sources = find_inputs(options["sources"])
    folder = Path(options["output"]).expanduser()
    settings = StoreOptions(
        read=ReadOptions(**options["data"], genes=options["genes"]),
        genes=options["extra_genes"],
        shard_cells=options["shard_cells"],
        block_cells=options["block_cells"],
        processes=options["processes"] or os.cpu_count() or 1,
        tool=f"cellfm_torch {__version__}",
    )
    console = Console()
    with FileProgress(console, total=len(sources)) as progress:
        outcome = add(sources, folder, settings, progress)
    warnings = [warning for entry in outcome.added for warning in entry["report"]["warnings"]]
    for warning in warnings[:MOST_WARNINGS]:
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    if len(warnings) > MOST_WARNINGS:
        console.print(f"and {len(warnings) - MOST_WARNINGS:,} more warnings, in {folder}/qc.html", soft_wrap=True)
    for entry in outcome.repeated:
        console.print(f"left out: {entry['source']} has the same contents as {entry['of']}", soft_wrap=True)
    for _, problem in outcome.failed:
        complain(problem)
    if outcome.added or outcome.known:
        store = Store(folder)
        if options["page"] and (outcome.added or not (folder / "qc.html").is_file()):
            write_page(store)
        _say(console, store, outcome)
    return USER_ERROR if outcome.failed else 0


def _say(console: Any, store: Any, outcome: Any) -> None:
    answer(output=store.path, added=len(outcome.added), files=len(store.sources), cells=len(store))
    cells = sum(entry["cells"] for entry in outcome.added)
    size = sum(shard["bytes"] for source in store.sources for shard in source["shards"])
    known = f", {len(outcome.known):,} were there already" if outcome.known else ""
    console.print(
        f"added {_files(len(outcome.added))} with {cells:,} cells{known}\n"
        f"store:  {store.path}: {len(store):,} cells of {_files(len(store.sources))}, "
        f"{size / max(len(store), 1):.0f} bytes per cell\n"
        f"look:   {store.path}/qc.html; cellfm store info {store.path}\n"
        f"use:    cellfm train --data {store.path}",
        highlight=False,
        soft_wrap=True,
    )


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number:,} files"


def main(overrides: Sequence[str] | None = None) -> int:
    """Compose conf/prepare.yaml with overrides (default: the command line's) and prepare."""
    return hydra_app.run(prepare, config="prepare", overrides=sys.argv[1:] if overrides is None else overrides)


if __name__ == "__main__":
    sys.exit(main())
