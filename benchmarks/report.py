"""A result on the terminal and in files: one JSON with every figure, one Markdown with the table."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NOT_MEASURED = "not measured"

# Column titles and formats, by field of a row. Fields without a format are shown as they are.
COLUMNS: dict[str, tuple[str, str]] = {
    "name": ("", "{}"),
    "tokens": ("tokens", "{:,}"),
    "cells": ("cells", "{:,}"),
    "cells_per_second": ("cells/s", "{:.2f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
    "milliseconds": ("ms", "{:.0f}"),
    "processor_milliseconds": ("ms of processor", "{:.0f}"),
    "microseconds_per_token": ("us per token", "{:.3g}"),
    "useful_utilisation": ("U", "{:.2f}"),
    "ratio_to_peer": ("ratio to peer", "{:.2f}"),
    "ratio_to_first": ("ratio to first row", "{:.2f}"),
    "max_error": ("max error", "{:.1e}"),
    "peak_memory_mb": ("peak memory, MB", "{:,.0f}"),
    "own_memory_mb": ("own, MB", "{:,.1f}"),
    "memory_above_mb": ("above the start, MB", "{:,.0f}"),
}


def cell(row: dict[str, Any], column: str) -> str:
    """Write a figure; None is a figure nobody measured, an absent one has no sense in this row."""
    if column not in row:
        return ""
    value = row[column]
    return NOT_MEASURED if value is None else COLUMNS[column][1].format(value)


def columns_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [column for column in COLUMNS if any(column in row for row in rows)]


def markdown(found: dict[str, Any]) -> str:
    rows, columns = found["rows"], columns_of(found["rows"])
    lines = [f"# {found['title']}", "", "| " + " | ".join(COLUMNS[c][0] for c in columns) + " |"]
    lines.append("|---" * len(columns) + "|")
    lines += ["| " + " | ".join(cell(row, c) for c in columns) + " |" for row in rows]
    lines += ["", *(f"* {note}" for note in found["notes"]), ""]
    lines += [f"![{name}]({name})" for name in found.get("pictures", ())]
    about, numbers = found["machine"], found["versions"]
    what = about.get("gpu") or f"{about['cores']} cores of {about['processor']}, {about['threads']} threads"
    lines += ["", f"{what}; {', '.join(f'{name} {number}' for name, number in numbers.items())}.", ""]
    return "\n".join(lines)


def show(found: dict[str, Any]) -> None:
    """Print the table; the terminal of a log file is taken to be wide."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(title=found["title"])
    columns = columns_of(found["rows"])
    for column in columns:
        table.add_column(COLUMNS[column][0], justify="left" if column == "name" else "right")
    for row in found["rows"]:
        table.add_row(*(cell(row, column) for column in columns))
    console.print(table)
    for note in found["notes"]:
        console.print(f"* {note}", markup=False, highlight=False)


def free_stem(folder: Path, name: str) -> Path:
    """Return a path without suffix that no result has yet: results are never overwritten."""
    stem, number = folder / name, 1
    while any(folder.glob(f"{stem.name}.*")) or any(folder.glob(f"{stem.name}_[a-z]*")):
        number += 1
        stem = folder / f"{name}_{number}"
    return stem


def stem_of(theme: str, hardware: str, folder: Path) -> Path:
    return free_stem(folder, f"{theme}_{hardware}_{datetime.date.today():%Y%m%d}")


def write(found: dict[str, Any], stem: Path) -> None:
    """Write STEM.json and STEM.md."""
    from cellfm_torch.files import write_text

    write_text(stem.with_suffix(".json"), json.dumps(found, indent=2) + "\n")
    write_text(stem.with_suffix(".md"), markdown(found))


def progress(turns: int, what: str) -> Iterator[int]:
    """Count turns under a bar, or with a line every half a minute where nobody watches a terminal."""
    if sys.stderr.isatty():
        yield from track(range(turns), description=what, console=Console(stderr=True))
        return
    last = time.monotonic()
    for turn in range(turns):
        yield turn
        if time.monotonic() - last > 30 or turn == turns - 1:
            last = time.monotonic()
            print(f"{what}: {turn + 1} of {turns}", file=sys.stderr, flush=True)
