"""Check a prepared store: ``cellfm store verify STORE``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellfm_torch.answers import answer
from cellfm_torch.command_line import OneLineParser, complain
from cellfm_torch.errors import UserError


def _verify(options: Any) -> int:
    from rich.console import Console
    from rich.progress import track

    from cellfm_torch.data.store import Store
    from cellfm_torch.data.store_verify import check_shard, check_store

    store, console = Store(options.store), Console()
    problems = check_store(store)
    shards = track(store.shards, "checking", console=console, disable=not console.is_terminal, transient=True)
    problems += [problem for shard in shards if (problem := check_shard(store, shard))]
    answer(store=store.path, cells=len(store), shards=len(store.shards), problems=problems)
    for problem in problems:
        complain(problem, page="files")
    if problems:
        return 2
    console.print(
        f"{store.path}: {len(store):,} cells in {len(store.shards):,} shards, all as they were written", soft_wrap=True
    )
    return 0


def parsers() -> list[argparse.ArgumentParser]:
    """Return the options."""
    parser = OneLineParser(
        prog="cellfm store verify",
        description="Read all of a prepared store and compare it with its checksums.",
        epilog="example: cellfm store verify cells.store",
        allow_abbrev=False,
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="what cellfm prepare wrote")
    return [parser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 2 for damage and for mistakes of the user's."""
    options = parsers()[0].parse_args(sys.argv[1:] if arguments is None else list(arguments))
    try:
        return _verify(options)
    except UserError as problem:
        return complain(problem)


if __name__ == "__main__":
    sys.exit(main())
