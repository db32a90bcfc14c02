"""Files of any known format to whole counts of cells over a model's vocabulary, in memory.

Shapes: n cells kept, G genes of the vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.data.files import Given, Input, find_inputs
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.quality import COUNTS, annotated
from cellfm_torch.data.report import ReadReport
from cellfm_torch.data.source import SOURCE_COLUMN, open_source
from cellfm_torch.errors import UserError


@dataclass(frozen=True)
class Cells:
    """Cells of one or more files over a vocabulary.

    Attributes
    ----------
    counts : (n, G) scipy CSR int32
        Whole counts after the published rescale; columns are vocabulary positions 0 .. G - 1, ascending in a row.
    totals : (n,) float64
        Raw counts of each cell over all genes of its file.
    obs : DataFrame, n rows
        Annotations of all files, ``source_file``, and scanpy's ``n_genes_by_counts``, ``total_counts`` and
        ``pct_counts_mt`` where a file does not have them itself.
    reports : tuple of ReadReport
        One per file.
    """

    counts: sp.csr_matrix
    totals: NDArray[np.float64]
    obs: pd.DataFrame
    reports: tuple[ReadReport, ...]

    @property
    def names(self) -> pd.Index:
        """Cell names (barcodes); not necessarily unique across files."""
        return self.obs.index

    @property
    def read_depth(self) -> NDArray[np.float64]:
        """Counts of each cell over the vocabulary after the rescale, (n,): the depth that values are relative to."""
        return np.asarray(self.counts.sum(axis=1), dtype=np.float64).ravel()

    def __len__(self) -> int:
        return self.counts.shape[0]


def read_cells(path: Given | Iterable[Given], vocab: GeneVocab, **options: Any) -> Cells:
    """Read files into whole counts over a vocabulary.

    Counts are scaled by 1 / max(1, total / most_counts) per cell, with the total over all genes of the file, and
    rounded (published CellFM recipe, with 1e5).

    Parameters
    ----------
    path
        One file, glob, manifest or AnnData, or a list of them.
    vocab
        The model's genes.
    options
        Fields of :class:`~cellfm_torch.data.options.ReadOptions`.

    Raises
    ------
    UserError
        If a file is missing, damaged, without counts or without genes of the vocabulary, or no cell is left.
    """
    read = ReadOptions(**options)
    parts = [read_file(entry, vocab, read) for entry in told_apart(find_inputs(path))]
    reports = tuple(report for part in parts for report in part.reports)
    if sum(len(part) for part in parts) == 0:
        raise none_left(reports)
    return Cells(
        counts=sp.vstack([part.counts for part in parts], format="csr"),
        totals=np.concatenate([part.totals for part in parts]),
        obs=pd.concat([part.obs for part in parts]),
        reports=reports,
    )


def none_left(reports: tuple[ReadReport, ...]) -> UserError:
    """Return the error of files of which no cell passes the filters."""
    reasons: Counter[str] = Counter()
    for report in reports:
        reasons.update(report.dropped)
    why = "; ".join(f"{n:,} {reason}" for reason, n in reasons.items())
    where = reports[0].file if len(reports) == 1 else f"{len(reports)} files"
    return UserError(f"{where}: no cell is left ({why}): change data.min_genes or data.max_genes")


def told_apart(entries: list[Input]) -> list[Input]:
    """Give whole paths as names where files of the same name lie in several folders."""
    if len({entry.path.name for entry in entries}) == len(entries):
        return entries
    return [Input(entry.path, {SOURCE_COLUMN: str(entry.path)} | entry.obs, entry.adata) for entry in entries]


def read_file(entry: Input, vocab: GeneVocab, options: ReadOptions) -> Cells:
    """Read one file; there may be no cell left."""
    counts, totals, quality, kept = [], [], [], []
    with open_source(entry.path, vocab, options, obs=entry.obs, adata=entry.adata) as source:
        for block in source.blocks():
            counts.append(block.rescaled[block.kept])
            totals.append(block.totals[block.kept])
            quality.append(block.quality[block.kept])
            kept.append(block.kept)
        report = source.report()
    if options.counts == "normalised":  # nobody knows their totals
        quality = [block.drop(columns=COUNTS) for block in quality]
    obs = annotated(source.obs[np.concatenate(kept)], quality)
    return Cells(sp.vstack(counts, format="csr"), np.concatenate(totals), obs, (report,))
