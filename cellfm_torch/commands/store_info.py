"""What is in a prepared store: ``cellfm store info STORE``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.command_line import OneLineParser, complain
from cellfm_torch.errors import UserError

MOST_SOURCES = 20
"""Listed one by one; ``--all`` lists the rest."""


def _info(options: Any) -> int:
    from rich.console import Console
    from rich.table import Table

    from cellfm_torch.data.store import Store

    store, console = Store(options.store), Console()
    size = sum(shard["bytes"] for source in store.sources for shard in source["shards"])
    lines = [
        f"{store.path}: {len(store):,} cells of {len(store.sources):,} files, made with {store.header['tool']}",
        f"{len(store.genes):,} genes; {len(store.shards):,} shards, {size / 1e6:,.1f} MB, "
        f"{size / len(store):.0f} bytes per cell",
        f"obs: {', '.join(store.columns) or 'nothing'}",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
    answer(store=store.path, cells=len(store), files=len(store.sources), genes=len(store.genes), bytes=size)
    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="ellipsis", no_wrap=True, max_width=32)
    for heading in ("cells", "genes matched", "counts kept", "counts", "genes", "mito"):
        table.add_column(heading, justify="right")
    listed = store.sources if options.all else store.sources[:MOST_SOURCES]
    for source in listed:
        quality, report = source["quality"], source["report"]
        table.add_row(
            Path(source["source"]).name,
            f"{source['cells']:,} of {report['cells_read']:,}",
            f"{report['genes_matched']:,} of {report['genes_read']:,}",
            f"{quality['counts_kept'] / max(quality['counts_read'], 1):.1%}",
            f"{quality['counts']['median']:,.0f}",
            f"{quality['genes']['median']:,.0f}",
            f"{quality['mito']['median']:.1f} %",
        )
    console.print(table)
    console.print("counts, genes and mitochondrial share: medians over cells", style="dim")
    if len(listed) < len(store.sources):
        console.print(f"and {len(store.sources) - len(listed):,} more: --all lists them")
    return 0


def parsers() -> list[argparse.ArgumentParser]:
    """Return the options."""
    parser = OneLineParser(
        prog="cellfm store info",
        description="What is in a prepared store, file by file.",
        epilog="example: cellfm store info cells.store",
        allow_abbrev=False,
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="what cellfm prepare wrote")
    parser.add_argument("--all", action="store_true", help=f"list every file, not the first {MOST_SOURCES}")
    return [parser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 2 for a mistake of the user's."""
    options = parsers()[0].parse_args(sys.argv[1:] if arguments is None else list(arguments))
    try:
        return _info(options)
    except UserError as problem:
        return complain(problem)


if __name__ == "__main__":
    sys.exit(main())
