"""Look at a prepared store, or check it: ``cellfm store info STORE``, ``cellfm store verify STORE``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.command_line import OneLineParser
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


def _verify(options: Any) -> int:
    from rich.console import Console
    from rich.progress import track

    from cellfm_torch.data.store import Store
    from cellfm_torch.data.store_verify import check_shard, check_store

    store, console = Store(options.store), Console()
    problems = check_store(store)
    shards = track(store.shards, "checking", console=console, disable=not console.is_terminal, transient=True)
    problems += [problem for shard in shards if (problem := check_shard(store, shard))]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        return 2
    console.print(
        f"{store.path}: {len(store):,} cells in {len(store.shards):,} shards, all as they were written", soft_wrap=True
    )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 2 for damage and for mistakes of the user's."""
    parser = OneLineParser(prog="cellfm store", description="Look at a prepared store, or check it.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="info|verify", parser_class=OneLineParser)
    info = verbs.add_parser("info", help="what is in it, file by file")
    info.add_argument("store", type=Path, metavar="STORE")
    info.add_argument("--all", action="store_true", help=f"list every file, not the first {MOST_SOURCES}")
    info.set_defaults(run=_info)
    verify = verbs.add_parser("verify", help="read all of it and compare with its checksums")
    verify.add_argument("store", type=Path, metavar="STORE")
    verify.set_defaults(run=_verify)
    options = parser.parse_args(sys.argv[1:] if arguments is None else list(arguments))
    try:
        return int(options.run(options))
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
