"""Cells of one file that stay on disk: rows are read from its compressed matrix when they are asked for.

Shapes: C cells of the file, n cells kept, r rows asked for, K blocks, G genes of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfm_torch.data.files import Input
from cellfm_torch.data.fingerprint import fingerprint
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.quality import annotated
from cellfm_torch.data.report import ReadReport
from cellfm_torch.data.row_moves import move_rows
from cellfm_torch.data.source import Source, open_source
from cellfm_torch.data.sources.damage import damage_named
from cellfm_torch.data.sources.h5_runs import StoredRows
from cellfm_torch.data.table import Rows, block_borders
from cellfm_torch.errors import UserError

PIECE = 1 << 20
"""Entries of the file that are decompressed and moved to the vocabulary at a time."""

Progress = Callable[[Path, int, int], None]
"""Called with a file, its cells done, and all its cells."""


class NotStored(Exception):
    """The cells of a file cannot be read one by one."""


class FileTable:
    """Cells of a file as batches are made from them (a :class:`~cellfm_torch.data.table.CellTable`), as if in memory.

    A first pass over the file checks all counts, measures the quality of cells and counts their genes. In memory stay
    12 to 28 bytes per cell.

    Parameters
    ----------
    entry
        The file.
    vocab
        The model's genes.
    options
        How it is read, and which cells are kept.
    block_size
        Cells that stay together in a shuffle.
    progress
        Told how far the first pass is.

    Raises
    ------
    NotStored
        If the file is not HDF5 with a matrix sorted by cell, or its values are no counts.
    UserError
        If the file is damaged or holds no counts.
    """

    def __init__(
        self,
        entry: Input,
        vocab: GeneVocab,
        options: ReadOptions,
        *,
        block_size: int = 1,
        progress: Progress = lambda *_: None,
    ) -> None:
        if entry.adata is not None:
            raise NotStored
        self.path, self.num_genes = entry.path, len(vocab)
        self._found = fingerprint(entry.path)
        with open_source(entry.path, vocab, options, obs=entry.obs) as source:
            with damage_named(self.path):
                stored = source.stored()
            if stored is None:
                raise NotStored
            self._stored: StoredRows = stored
            self._lookup = source.lookup
            self._read_all(source, progress)
        self.blocks = block_borders(len(self.lengths), block_size)

    def _read_all(self, source: Source, progress: Progress) -> None:
        kept: list[NDArray[np.bool_]] = []
        lengths: list[NDArray[np.int32]] = []
        divisors: list[NDArray[np.float64]] = []
        quality: list[pd.DataFrame] = []
        for block in source.blocks():
            kept.append(block.kept)
            lengths.append(np.diff(block.rescaled.indptr)[block.kept].astype(np.int32))
            divisors.append(np.maximum(1.0, block.totals[block.kept] / source.options.limit))
            quality.append(block.quality[block.kept])
            progress(self.path, block.start + len(block.kept), source.n_cells)
        rows = np.concatenate(kept)
        self._rows = None if rows.all() else np.flatnonzero(rows)
        self.lengths = np.concatenate(lengths)
        joined = np.concatenate(divisors)
        self._divisors = joined if np.any(joined > 1) else None
        self._annotations = annotated(source.obs[rows], quality), source.report()

    def take_annotations(self) -> tuple[pd.DataFrame, ReadReport]:
        """Return the annotations of the cells, n rows as in :class:`~cellfm_torch.data.reader.Cells`, and the report.

        Once: the table does not keep them.
        """
        taken = self._annotations
        del self._annotations
        return taken

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, rows: NDArray[np.int64]) -> Rows:
        """Return the cells of ascending row numbers (r,).

        Raises
        ------
        UserError
            If the file has changed or is damaged.
        """
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        genes, counts = np.empty(offsets[-1], dtype=np.int32), np.empty(offsets[-1], dtype=np.int32)
        divisors = np.ones(len(rows)) if self._divisors is None else self._divisors[rows]
        stored = rows if self._rows is None else self._rows[rows]
        starts, stops = self._stored.indptr[stored], self._stored.indptr[stored + 1]
        with damage_named(self.path):
            if fingerprint(self.path) != self._found:
                raise self._changed()
            data, indices = self._stored.data.open(), self._stored.indices.open()
            try:
                pieces = np.flatnonzero(np.diff(np.cumsum(stops - starts) // PIECE, prepend=-1, append=-1))
                for a, b in zip(pieces[:-1], pieces[1:], strict=True):
                    indptr = np.concatenate([[0], np.cumsum(stops[a:b] - starts[a:b])])
                    columns, values = np.empty(indptr[-1], dtype=np.int32), np.empty(indptr[-1], dtype=np.int32)
                    apart = np.flatnonzero(starts[a + 1 : b] != stops[a : b - 1]) + 1
                    for first, last in zip([0, *apart], [*apart, b - a], strict=True):
                        own = slice(indptr[first], indptr[last])
                        indices.read(int(starts[a + first]), int(stops[a + last - 1]), columns[own])
                        data.read(int(starts[a + first]), int(stops[a + last - 1]), values[own])
                    wrong = move_rows(
                        indptr,
                        columns,
                        values,
                        self._lookup,
                        self.num_genes,
                        divisors[a:b],
                        offsets[a : b + 1],
                        genes,
                        counts,
                    )
                    if wrong >= 0:
                        raise self._changed()
            finally:
                data.close()
                indices.close()
        return Rows(offsets, genes, counts)

    def _changed(self) -> UserError:
        return UserError(f"{self.path}: has changed since it was opened: start again when it is complete")
