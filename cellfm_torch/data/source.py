"""A source of cells: any file as whole counts over a vocabulary, block by block.

Shapes: C cells of a file, n cells of a block, V genes (variables) of a file, G genes of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.data.genes import GeneMatch, GeneVocab
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.report import ReadReport

BLOCK = 4096
"""Cells that are in memory at a time, where the format permits."""


@dataclass(frozen=True)
class CellBlock:
    """Neighbouring cells of a file, all of them, in file order.

    Attributes
    ----------
    start : int
        Row of the first one in the file.
    counts : (n, G) CSR int32
        Whole counts over the vocabulary, before the published rescale, ascending in a row and without zeros.
    totals : (n,) float64
        Counts of each cell over all genes of the file.
    quality : DataFrame, n rows
        ``n_genes_by_counts``, ``total_counts`` and ``pct_counts_mt`` over all genes of the file, as scanpy has them.
    kept : (n,) bool
        Which cells pass the filters of the options.
    """

    start: int
    counts: sp.csr_matrix
    totals: NDArray[np.float64]
    quality: pd.DataFrame
    kept: NDArray[np.bool_]


class Source(Protocol):
    """A file whose genes have been found in a vocabulary.

    Attributes
    ----------
    path : Path
        The file, or the folder of a format that is one.
    n_cells : int
        C, before any filter.
    obs : DataFrame, C rows
        Annotations of the file, those that a manifest adds, and ``source_file``.
    var : DataFrame, V rows
        Genes of the file.
    match : GeneMatch
        Where they are in the vocabulary.
    """

    path: Path
    n_cells: int
    obs: pd.DataFrame
    var: pd.DataFrame
    match: GeneMatch

    def blocks(self, size: int = BLOCK) -> Iterator[CellBlock]:
        """Yield the cells in file order, `size` at a time and the last block shorter.

        Raises
        ------
        UserError
            If the file is damaged, or does not hold counts.
        """

    def report(self) -> ReadReport:
        """Return what became of the cells and genes in the blocks of the last pass over them."""


def open_source(
    path: str | Path, vocab: GeneVocab, options: ReadOptions | None = None, *, obs: Mapping[str, Any] | None = None
) -> Source:
    """Open a file of any known format.

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

    Raises
    ------
    UserError
        If the file is missing, damaged, of an unknown format, or has no gene of the vocabulary.
    """
    raise NotImplementedError  # on its way: the interface first
