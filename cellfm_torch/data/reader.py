"""h5ad files to whole counts of cells over a model's vocabulary.

Shapes: C cells of a file, V genes (variables) of a file, n cells kept, G genes of the vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.data import counts as ops
from cellfm_torch.data.files import (
    PathLike,
    choose_layer,
    find_files,
    gene_names,
    layer_with_counts,
    no_gene_matches,
    open_h5ad,
    where_counts_are,
)
from cellfm_torch.data.genes import GeneMatch, GeneVocab
from cellfm_torch.data.report import ReadReport
from cellfm_torch.errors import UserError

CountsKind = Literal["raw", "recover"]
DuplicatesRule = Literal["sum", "unique"]

TOP_UNMATCHED = 5
"""Unmatched genes named in the report."""


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
        Annotations of all files, and ``source_file``.
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


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How files are read; each field is a ``data.`` option of :class:`~cellfm_torch.data.module.CellDataModule`."""

    layer: str | None = None
    gene_column: str | None = None
    counts: CountsKind = "raw"
    duplicates: DuplicatesRule = "sum"
    min_genes: int = 0
    max_genes: int | None = None


def read_cells(
    path: PathLike | Iterable[PathLike],
    vocab: GeneVocab,
    *,
    layer: str | None = None,
    gene_column: str | None = None,
    counts: CountsKind = "raw",
    duplicates: DuplicatesRule = "sum",
    min_genes: int = 0,
    max_genes: int | None = None,
) -> Cells:
    """Read h5ad files into whole counts over a vocabulary.

    Counts are scaled by 1 / max(1, total / 1e5) per cell, with the total over all genes of the file, and rounded
    (published CellFM recipe). Cells without any count in the vocabulary are always dropped.

    Parameters
    ----------
    path
        One file, one glob, or a list of them.
    vocab
        The model's genes.
    layer
        Which matrix holds the counts: None for ``X``, ``"raw"`` for ``raw.X``, else a name in ``layers``.
    gene_column
        Column of ``var`` with gene symbols or Ensembl ids; None for ``var_names``.
    counts
        ``"raw"``: the matrix holds counts. ``"recover"``: it holds log-normalised values, whose counts are recovered.
    duplicates
        Several genes of one symbol: add them up (``"sum"``) or take the first (``"unique"``).
    min_genes, max_genes
        Cells with fewer or more expressed genes of the vocabulary are dropped; None for no upper limit.

    Raises
    ------
    UserError
        If a file is missing, damaged, without counts or without genes of the vocabulary, or no cell is left.
    """
    options = ReadOptions(
        layer=layer,
        gene_column=gene_column,
        counts=counts,
        duplicates=duplicates,
        min_genes=min_genes,
        max_genes=max_genes,
    )
    parts = [_read_file(file, vocab, options) for file in find_files(path)]
    reports = tuple(report for part in parts for report in part.reports)
    if sum(len(part) for part in parts) == 0:
        reasons: Counter[str] = Counter()
        for report in reports:
            reasons.update(report.dropped)
        why = "; ".join(f"{n:,} {reason}" for reason, n in reasons.items())
        where = reports[0].file if len(reports) == 1 else f"{len(reports)} files"
        raise UserError(f"{where}: no cell is left ({why}): change data.min_genes or data.max_genes")
    return Cells(
        counts=sp.vstack([part.counts for part in parts], format="csr"),
        totals=np.concatenate([part.totals for part in parts]),
        obs=pd.concat([part.obs for part in parts]),
        reports=reports,
    )


def _read_file(file: Path, vocab: GeneVocab, options: ReadOptions) -> Cells:
    adata = open_h5ad(file)
    source, var = choose_layer(adata, options.layer, file=file)
    match = vocab.match(gene_names(var, options.gene_column, file=file))
    if not match.matched:
        raise no_gene_matches(match, var, vocab, file=file)
    matrix, error = _whole_counts(ops.to_csr(source), adata, match, file, options)
    totals = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    per_gene = np.bincount(matrix.indices, weights=matrix.data, minlength=matrix.shape[1])
    scaled = ops.rescale(ops.to_vocabulary(matrix, match, len(vocab), duplicates=options.duplicates), totals)
    expressed = np.diff(scaled.indptr)
    reasons = _reasons(expressed, options)
    kept = ~np.any(list(reasons.values()), axis=0)
    if np.any(error[kept] > ops.WHOLE):
        worst = int(np.flatnonzero(kept)[np.argmax(error[kept])])
        raise UserError(
            f"{file}: counts cannot be recovered: cell {adata.obs_names[worst]} is not log1p of scaled counts (natural "
            f"logarithm; off by {error[worst]:.0%}): {where_counts_are(adata, options.layer)}"
        )

    lost = match.rows < 0
    top = [i for i in np.argsort(-per_gene, kind="stable") if lost[i] and per_gene[i] > 0][:TOP_UNMATCHED]
    used = ~lost & ~(match.repeated & (options.duplicates == "unique"))
    report = ReadReport(
        file=file.name,
        cells_read=len(kept),
        cells_kept=int(kept.sum()),
        dropped={reason: int(rows.sum()) for reason, rows in reasons.items() if rows.any()},
        name_kind=match.kind,
        genes_read=len(lost),
        genes_matched=int((~lost).sum()),
        genes_unmatched=int(lost.sum()),
        genes_duplicated=int(match.repeated.sum()),
        counts_read=float(per_gene.sum()),
        counts_kept=float(per_gene[used].sum()),
        top_unmatched=tuple((match.names[i], float(per_gene[i])) for i in top),
    )
    obs = adata.obs[kept].assign(source_file=file.name)
    return Cells(counts=scaled[kept], totals=totals[kept], obs=obs, reports=(report,))


def _whole_counts(
    matrix: sp.csr_matrix, adata: anndata.AnnData, match: GeneMatch, file: Path, options: ReadOptions
) -> tuple[sp.csr_matrix, NDArray[np.float64]]:
    """Return the counts (C, V) and how far each cell's (C,) were from whole numbers; refuse what is no count."""
    if not matrix.nnz:
        raise UserError(f"{file}: all {matrix.shape[0]:,} cells are empty: give a file with counts")
    genes = np.asarray(match.names, dtype=object)
    fault = ops.find_fault(matrix, cells=adata.obs_names.to_numpy(), genes=genes)
    if fault:
        raise UserError(f"{file}: {fault}; counts are 0, 1, 2, ...: {where_counts_are(adata, options.layer)}")
    if options.counts == "recover":
        if ops.is_whole(matrix.data):
            raise UserError(f"{file}: holds whole counts already: use data.counts=raw")
        return ops.recover_counts(matrix)
    if not ops.is_whole(matrix.data):
        entry = int(np.argmax(matrix.data != np.rint(matrix.data)))
        row, column = ops.locate(matrix, entry)
        example = f"{matrix.data[entry]:.4g} for gene {genes[column]} in cell {adata.obs_names[row]}"
        if not ops.is_log_normalised(matrix):
            what = f"{example} is no whole count, and no log-normalised one either"
            raise UserError(f"{file}: {what}: {where_counts_are(adata, options.layer)}")
        better = layer_with_counts(adata, other_than=options.layer)
        advice = f"read its counts with data.layer={better}" if better else "recover them with data.counts=recover"
        raise UserError(f"{file}: is log-normalised, not counts ({example}): {advice}")
    return matrix, np.zeros(matrix.shape[0])


def _reasons(expressed: NDArray[np.integer], options: ReadOptions) -> dict[str, NDArray[np.bool_]]:
    """Reasons for dropping cells, each with the cells (C,) it holds for; a cell has at most one."""
    reasons = {
        "without counts in the vocabulary": expressed == 0,
        f"with fewer than {options.min_genes:,} genes": (expressed > 0) & (expressed < options.min_genes),
    }
    if options.max_genes is not None:
        reasons[f"with more than {options.max_genes:,} genes"] = expressed > options.max_genes
    return reasons
