"""What a conversion shows: a bar while it copies, a table at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

if TYPE_CHECKING:
    from .conversion import Done

LARGE = 200_000_000  # bytes; less is done before anyone looks


@contextmanager
def copying(num_bytes: int) -> Iterator[Callable[[int], object] | None]:
    """Show a progress bar on stderr for large files; gives what to call with the bytes of each step."""
    if num_bytes < LARGE or not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("converting", total=num_bytes)
        yield lambda step: bar.advance(task, step)


def show(done: Done) -> None:
    """Print warnings to stderr, then the table, then what to do next."""
    for line in done.warnings:
        print(f"warning: {line}", file=sys.stderr)
    config = done.layout.config
    table = Table(title=f"{done.record['source']} -> {done.folder}", title_justify="left", show_header=False)
    size = f"{config.num_layers} layers, width {config.dim}, {config.num_heads} heads, {config.num_genes:,} genes"
    table.add_row("network", size)
    extra = {
        "read-depth tokens": config.read_depth,
        "heads for zeros": config.zeros,
        "no decoders": not config.decoders,
        f"adapters of rank {config.lora_rank}": config.lora_rank > 0,
        f"{done.layout.task} heads": done.layout.task is not None,
    }
    if any(extra.values()):
        table.add_row("variant", ", ".join(name for name, there in extra.items() if there))
    table.add_row("tensors", f"{done.tensors:,}")
    table.add_row("parameters", f"{done.parameters:,}")
    table.add_row("bytes", f"{done.num_bytes:,}")
    reasons = ["merged into their weights" if x.startswith("merged into ") else x for x in done.dropped.elements()]
    dropped = "; ".join(f"{reasons.count(x)} x {x}" for x in dict.fromkeys(reasons))
    table.add_row("dropped names", dropped or "none")
    if "steps" in done.record:
        table.add_row("training state", f"training.ckpt, after {done.record['steps']:,} steps")
    checked = done.record.get("validation")
    if checked is None:
        table.add_row("validation", "skipped")
    else:
        weights = checked["weights"]
        table.add_row("weights read back", "identical" if weights == 0 else f"off by {weights:.1e} of the largest")
        if "outputs" in checked:
            worst = max(checked["outputs"].values())
            table.add_row("outputs", f"off the recording by {worst:.1e} of their mean magnitude")
    if "licence" in done.record:
        table.add_row("licence", "CC BY-NC-ND 4.0: do not redistribute")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(f"{done.folder}: load it with CellFM.from_pretrained({str(done.folder)!r})", markup=False)
