"""What was read from each file, and a short table of it for the person at the keyboard.

Shapes: n cells of a block, V genes (variables) of a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cellfm_torch.data.quality import COUNTS, GENES, MITO

if TYPE_CHECKING:
    from cellfm_torch.data.source import Source

MOST_FILES = 5
"""Files listed one by one; the rest go into the last row."""

MOST_WARNINGS = 5
"""Warnings printed; the rest are counted."""

TOP_UNMATCHED = 5
"""Unmatched genes named in the report."""

LEAST_SHARE, LEAST_GENES = 0.8, 200
"""A warning says so where less of the counts, or fewer genes, are found in the vocabulary."""

FILTERED_GENES = 5_000
"""Files with fewer genes look as if somebody had kept the variable ones only."""

NAMES = {"symbol": "symbol", "ensembl": "Ensembl id", "previous": "previous symbol", "alias": "alias"}


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
    genes_read, genes_matched, genes_unmatched, genes_duplicated : int
        Genes of the file; of these in the vocabulary, not in it, and naming a gene that an earlier one named.
    counts_read, counts_kept : float
        Raw counts of the file, and those in genes of the vocabulary (before rescale and filter).
    top_unmatched : tuple of (str, float)
        Unmatched genes with most counts, and their counts.
    matched_by : dict of str to int
        Genes by what they were matched by: ``"symbol"``, ``"ensembl"``, ``"previous"``, ``"alias"``; and names that
        were not used: ``"ambiguous"``, the name of several genes, and ``"taken"``, that of a gene which the file has
        under a better name.
    gene_column : str or None
        Column of ``var`` with the names; None for ``var_names``.
    gene_table : str
        What the table of names was made from.
    median_genes, median_counts, median_mito : float
        Of the cells kept, over all genes of the file; the last in per cent of a cell's counts.
    warnings : tuple of str
        What the user should look at, a line each.
    """

    file: str
    cells_read: int
    cells_kept: int
    dropped: dict[str, int]
    genes_read: int
    genes_matched: int
    genes_unmatched: int
    genes_duplicated: int
    counts_read: float
    counts_kept: float
    top_unmatched: tuple[tuple[str, float], ...]
    matched_by: dict[str, int] = field(default_factory=dict)
    gene_column: str | None = None
    gene_table: str = ""
    median_genes: float = float("nan")
    median_counts: float = float("nan")
    median_mito: float = float("nan")
    warnings: tuple[str, ...] = ()

    @property
    def name_kind(self) -> str:
        """What most genes were matched by."""
        kinds = {kind: number for kind, number in self.matched_by.items() if kind in NAMES}
        return max(kinds, key=lambda kind: kinds[kind], default="symbol")


class ReportWriter:
    """Adds up what a source of V genes hands out."""

    def __init__(self, num_genes: int) -> None:
        self._per_gene = np.zeros(num_genes)
        self._kept: list[NDArray[np.bool_]] = []
        self._quality: list[pd.DataFrame] = []
        self._dropped: Counter[str] = Counter()

    def add(
        self,
        matrix: sp.csr_matrix,
        quality: pd.DataFrame,
        reasons: Mapping[str, NDArray[np.bool_]],
        kept: NDArray[np.bool_],
    ) -> None:
        """Take in cells: counts (n, V), quality (n rows), and why which of them (n,) are dropped or kept."""
        self._per_gene += np.bincount(matrix.indices, weights=matrix.data, minlength=matrix.shape[1])
        self._kept.append(kept)
        self._quality.append(quality[kept])
        self._dropped.update({reason: int(cells.sum()) for reason, cells in reasons.items()})

    def report(self, source: Source) -> ReadReport:
        """Return the sums, with what the source knows of itself."""
        match, options = source.match, source.options
        lost = match.rows < 0
        used = ~lost & ~(match.repeated & (options.genes.duplicates == "unique"))
        order = np.argsort(-self._per_gene, kind="stable")
        top = [i for i in order if lost[i] and self._per_gene[i] > 0][:TOP_UNMATCHED]
        quality = pd.concat([pd.DataFrame(columns=[GENES, COUNTS, MITO], dtype=float), *self._quality])
        read, kept = float(self._per_gene.sum()), float(self._per_gene[used].sum())
        return ReadReport(
            file=source.path.name,
            cells_read=sum(map(len, self._kept)),
            cells_kept=int(sum(part.sum() for part in self._kept)),
            dropped={reason: number for reason, number in self._dropped.items() if number},
            genes_read=len(lost),
            genes_matched=int((~lost).sum()),
            genes_unmatched=int(lost.sum()),
            genes_duplicated=int(match.repeated.sum()),
            counts_read=read,
            counts_kept=kept,
            top_unmatched=tuple((match.names[i], float(self._per_gene[i])) for i in top),
            matched_by=match.matched_by,
            gene_column=source.gene_column,
            gene_table=match.table,
            median_genes=float(quality[GENES].median()),
            median_counts=float(quality[COUNTS].median()),
            median_mito=float(quality[MITO].median()),
            warnings=tuple(_warnings(source, read, kept)),
        )


def _warnings(source: Source, read: float, kept: float) -> list[str]:
    found = len(np.unique(source.match.rows[source.match.rows >= 0]))
    warnings = []
    if read and kept < LEAST_SHARE * read:
        warnings.append(f"only {kept / read:.0%} of the counts are in genes of the model")
    if found < LEAST_GENES:
        warnings.append(f"only {found:,} of the model's {len(source.vocab):,} genes are in it")
    elif len(source.match.rows) < FILTERED_GENES:
        what = f"has {len(source.match.rows):,} genes only, as if filtered before"
        raw = " (raw has more: data.layer=raw)" if source.larger_raw else ": give all genes where you have them"
        warnings.append(what + raw)
    return [f"{source.path.name}: {warning}" for warning in warnings]


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
    """Print cells and genes of each file, why cells were dropped, which genes were lost, and what to look at."""
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
    for line in (f"cells dropped: {reasons}", _matched(reports), _unmatched(reports, unmatched)):
        console.print(Text(line))
    warnings = [warning for report in reports for warning in report.warnings]
    for warning in warnings[:MOST_WARNINGS]:
        console.print(Text(f"warning: {warning}"))
    if len(warnings) > MOST_WARNINGS:
        console.print(Text(f"and {len(warnings) - MOST_WARNINGS:,} more warnings"))


def _matched(reports: Sequence[ReadReport]) -> str:
    """Say what genes were matched by, and which names were left out."""
    numbers: Counter[str] = Counter()
    for report in reports:
        numbers.update(report.matched_by)
    parts = [f"{numbers[kind]:,} by {name}" for kind, name in NAMES.items() if numbers[kind]]
    parts.append(f"{_spread([report.genes_duplicated for report in reports])} duplicated")
    for kind, name in (("ambiguous", "ambiguous"), ("taken", "left to a better name")):
        if numbers[kind]:
            parts.append(f"{numbers[kind]:,} {name}")
    columns = sorted({report.gene_column for report in reports if report.gene_column})
    where = f" in {', '.join(columns)}" if columns else ""
    return f"genes{where}: {', '.join(parts)}"


def _unmatched(reports: Sequence[ReadReport], unmatched: Counter[str]) -> str:
    line = f"unmatched: {_spread([report.genes_unmatched for report in reports])}"
    if unmatched:
        counts = sum(report.counts_read for report in reports)
        top = ", ".join(f"{name} ({number / counts:.1%})" for name, number in unmatched.most_common(TOP_UNMATCHED))
        line += f", of these with most counts: {top}"
    return line
