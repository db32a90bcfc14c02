"""What was read from each file, and a short table of it for the person at the keyboard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

MOST_FILES = 5
"""Files listed one by one; the rest go into the last row."""


@dataclass(frozen=True)
class ReadReport:
    """What became of the cells and genes of one file.

    Attributes
    ----------
    file : str
        Name of the file.
    cells_read, cells_kept : int
        Cells before and after the filter.
    dropped : dict of str to int
        Cells per reason for dropping them.
    name_kind : str
        What gene names were recognised as: ``"symbol"`` or ``"ensembl"``.
    genes_read, genes_matched, genes_unmatched, genes_duplicated : int
        Genes of the file; of these in the vocabulary, not in it, and naming a gene that an earlier one named.
    counts_read, counts_kept : float
        Raw counts of the file, and those in genes of the vocabulary (before rescale and filter).
    top_unmatched : tuple of (str, float)
        Unmatched genes with most counts, and their counts.
    """

    file: str
    cells_read: int
    cells_kept: int
    dropped: dict[str, int]
    name_kind: str
    genes_read: int
    genes_matched: int
    genes_unmatched: int
    genes_duplicated: int
    counts_read: float
    counts_kept: float
    top_unmatched: tuple[tuple[str, float], ...]


def _spread(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def _row(name: str, reports: Sequence[ReadReport]) -> tuple[str, ...]:
    counts = sum(report.counts_read for report in reports)
    return (
        name,
        f"{sum(report.cells_kept for report in reports):,} of {sum(report.cells_read for report in reports):,}",
        f"{_spread([report.genes_matched for report in reports])} of {_spread([r.genes_read for r in reports])}",
        f"{sum(report.counts_kept for report in reports) / counts:.1%}" if counts else "-",
    )


def print_report(reports: Sequence[ReadReport], console: Console | None = None) -> None:
    """Print cells and genes of each file, why cells were dropped and which genes were lost; at most 11 lines."""
    console = console or Console()
    table = Table(title="Cells read", title_justify="left", box=None, pad_edge=False)
    table.add_column("file", overflow="ellipsis", no_wrap=True, max_width=24)
    for heading in ("cells kept", "genes matched", "counts kept"):
        table.add_column(heading, justify="right", no_wrap=True)
    listed = reports if len(reports) <= MOST_FILES else reports[: MOST_FILES - 1]
    for report in listed:
        table.add_row(*_row(report.file, [report]))
    if rest := reports[len(listed) :]:
        table.add_row(*_row(f"and {len(rest)} more", rest))
    console.print(table)

    dropped: Counter[str] = Counter()
    unmatched: Counter[str] = Counter()
    for report in reports:
        dropped.update(report.dropped)
        unmatched.update(dict(report.top_unmatched))
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in dropped.items()) or "none"
    kinds = " or ".join(sorted({report.name_kind for report in reports}))
    genes = (
        f"genes, by {kinds}: {_spread([report.genes_duplicated for report in reports])} duplicated, "
        f"{_spread([report.genes_unmatched for report in reports])} unmatched"
    )
    if unmatched:
        counts = sum(report.counts_read for report in reports)
        genes += (
            f", of these with most counts: {', '.join(f'{n} ({c / counts:.1%})' for n, c in unmatched.most_common(5))}"
        )
    for line in (f"cells dropped: {reasons}", genes):
        console.print(Text(line))
