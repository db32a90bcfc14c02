"""A source of cells: any file as whole counts over a vocabulary, block by block.

Shapes: C cells of a file, n cells of a block, V genes (variables) of a file, G genes of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from cellfm_torch.data import counts as ops
from cellfm_torch.data.check import CountCheck
from cellfm_torch.data.gene_column import find_genes, is_expression
from cellfm_torch.data.gene_table import find_table
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.quality import measure, why_dropped
from cellfm_torch.data.report import ReadReport, ReportWriter
from cellfm_torch.data.sources.anndata_files import MemoryFile
from cellfm_torch.data.sources.base import CellFile, Matrix, NoMatrixError, RowMatrix
from cellfm_torch.data.sources.damage import damage_named, named_blocks
from cellfm_torch.data.sources.formats import open_file
from cellfm_torch.data.sources.h5_runs import StoredRows
from cellfm_torch.errors import UserError, examples, nearest

BLOCK = 4096
"""Cells that are in memory at a time, where the format permits."""

SOURCE_COLUMN = "source_file"
"""Column of ``obs`` with the name of the file."""


@dataclass(frozen=True)
class CellBlock:
    """Neighbouring cells of a file, all of them, in file order.

    Attributes
    ----------
    start : int
        Row of the first one in the file.
    counts : (n, G) CSR
        Whole counts over the vocabulary, before the published rescale, ascending in a row and without zeros.
    rescaled : (n, G) CSR int32
        The same after it; shares memory with `counts` where no cell is deep.
    totals : (n,) float64
        Counts of each cell over all genes of the file.
    quality : DataFrame, n rows
        ``n_genes_by_counts``, ``total_counts`` and ``pct_counts_mt`` over all genes of the file, as scanpy has them.
    kept : (n,) bool
        Which cells pass the filters of the options.
    """

    start: int
    counts: sp.csr_matrix
    rescaled: sp.csr_matrix
    totals: NDArray[np.float64]
    quality: pd.DataFrame
    kept: NDArray[np.bool_]


class Source:
    """A file whose genes have been found in a vocabulary; made by :func:`open_source`.

    Attributes
    ----------
    path : Path
        The file, or the folder of a format that is one.
    n_cells : int
        C, before any filter.
    obs : DataFrame, C rows
        Annotations of the file, those that a manifest adds, and ``source_file``.
    var : DataFrame, V rows
        Genes of the file; proteins, peaks and hashtags measured with them are left out.
    match : GeneMatch
        Where they are in the vocabulary.
    """

    def __init__(self, file: CellFile, vocab: GeneVocab, options: ReadOptions, obs: Mapping[str, Any]) -> None:
        self.path = file.path
        self.vocab = vocab
        self.options = options
        self._file = file
        self._matrix, var = _choose(file, options.layer)
        self._genes = is_expression(var)
        self.var = var[self._genes]
        self.match, self.gene_column = find_genes(self.var, vocab, options.genes, file=self.path)
        self.n_cells = self._matrix.shape[0]
        self.obs = file.obs.assign(**{SOURCE_COLUMN: self.path.name, **obs})
        self._writer = ReportWriter(len(self.match.rows))

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def blocks(self, size: int = BLOCK) -> Iterator[CellBlock]:
        """Yield the cells in file order, `size` at a time and the last block shorter.

        Raises
        ------
        UserError
            If the file is damaged, or does not hold counts.
        """
        self._writer = writer = ReportWriter(len(self.match.rows))
        check = CountCheck(self._file, self.match, self.options)
        start = 0
        for raw in named_blocks(self._matrix, size, self.path):
            matrix = ops.to_csr(raw if self._genes.all() else raw[:, self._genes])
            matrix, error = check.whole_counts(matrix, start)
            quality = measure(matrix, self.match.mito)
            totals = quality["total_counts"].to_numpy()
            rule = self.options.genes.duplicates
            counts = ops.to_vocabulary(matrix, self.match, len(self.vocab), duplicates=rule)
            rescaled = ops.rescale(counts, totals, most_counts=self.options.limit)
            reasons = why_dropped(np.diff(rescaled.indptr), quality, self.options)
            kept = ~np.any(list(reasons.values()), axis=0)
            check.recovered(error, kept, start)
            writer.add(matrix, quality, reasons, kept)
            yield CellBlock(start, counts, rescaled, totals, quality, kept)
            start += len(kept)
        check.finish(start)

    def stored(self) -> StoredRows | None:
        """Return what reads any rows of raw counts, also when the file is closed; None where it takes a pass over all.

        Its columns are those of :attr:`lookup`.
        """
        if self.options.counts != "raw" or not isinstance(self._matrix, RowMatrix):
            return None
        return self._matrix.stored()

    @property
    def lookup(self) -> NDArray[np.int32]:
        """Position in the vocabulary of each column of the matrix on disk, or -1."""
        unique = self.options.genes.duplicates == "unique"
        positions = np.full(len(self._genes), -1, dtype=np.int32)
        positions[self._genes] = np.where(self.match.repeated & unique, -1, self.match.rows)
        return positions

    @property
    def larger_raw(self) -> bool:
        """Whether the file keeps a matrix of more genes as ``raw``, which is not the one read."""
        if self.options.layer == "raw" or "raw" not in self._file.layers:
            return False
        return self._file.matrix("raw")[0].shape[1] > self._matrix.shape[1]

    def report(self) -> ReadReport:
        """Return what became of the cells and genes in the blocks of the last pass over them."""
        return self._writer.report(self)


def open_source(
    path: str | Path,
    vocab: GeneVocab,
    options: ReadOptions | None = None,
    *,
    obs: Mapping[str, Any] | None = None,
    adata: AnnData | None = None,
) -> Source:
    """Open a file of any known format, or cells in memory.

    Parameters
    ----------
    path
        h5ad, zarr, 10x h5, folder or matrix of 10x mtx, loom, csv or tsv.
    vocab
        The genes that counts are wanted of.
    options
        How to read it.
    obs
        Annotations to give to each of its cells, such as the other columns of a manifest.
    adata
        The cells, where they are in memory; `path` is what messages call them then.

    Raises
    ------
    UserError
        If the file is missing, damaged, of an unknown format, or has no gene of the vocabulary.
    """
    path, options = Path(path), options or ReadOptions()
    if adata is None and not path.exists():
        raise UserError(f"{path}: no such file")
    table = find_table(options.genes.table)
    known = set(vocab.symbols)
    file: CellFile
    if adata is None:
        file = open_file(path, lambda name: name in known or table.find(name)[0] >= 0)
    else:
        file = MemoryFile(path, adata)
    try:
        with damage_named(path):
            return Source(file, vocab, options, obs or {})
    except UserError:
        file.close()
        raise


def _choose(file: CellFile, layer: str | None) -> tuple[Matrix, pd.DataFrame]:
    try:
        return file.matrix(layer)
    except NoMatrixError:
        listed = f"it has {examples(file.layers, most=20)}" if file.layers else "it has X only: leave data.layer out"
        if layer is not None:
            raise UserError(f"{file.path}: has no layer '{layer}' ({listed}){nearest(layer, file.layers)}") from None
        raise UserError(f"{file.path}: has no X ({listed}): choose with data.layer=NAME") from None
