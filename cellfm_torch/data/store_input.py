"""What a prepared store takes from a source, and whether that has changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellfm_torch.data import counts as ops
from cellfm_torch.data.files import choose_layer, gene_names, no_gene_matches, open_h5ad
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.reader import ReadOptions as OldOptions
from cellfm_torch.data.reader import _whole_counts
from cellfm_torch.data.source import CellBlock


class _Whole:
    """A source that is read into memory as a whole."""

    def __init__(self, path: Path, vocab: GeneVocab, options: ReadOptions) -> None:
        self.path = path
        adata = open_h5ad(path)
        matrix, self.var = choose_layer(adata, options.layer, file=path)
        self.match = vocab.match(gene_names(self.var, options.genes.column, file=path))
        if not self.match.matched:
            raise no_gene_matches(self.match, self.var, vocab, file=path)
        old = OldOptions(layer=options.layer, counts=options.counts, min_genes=options.min_genes)
        csr, _ = _whole_counts(ops.to_csr(matrix), adata, self.match, path, old)
        self.obs = adata.obs
        self.n_cells = csr.shape[0]
        self._counts = ops.to_vocabulary(csr, self.match, len(vocab), duplicates=options.genes.duplicates)
        self._totals = np.asarray(csr.sum(axis=1), dtype=np.float64).ravel()
        self._genes = np.diff(csr.indptr)
        mito = np.array([name.startswith("MT-") for name in self.match.names])
        self._mito = np.asarray(csr[:, np.flatnonzero(mito)].sum(axis=1)).ravel() / np.maximum(self._totals, 1) * 100
        self._options = options

    def blocks(self, size: int) -> Iterator[CellBlock]:
        for start in range(0, self.n_cells, size):
            own = slice(start, min(start + size, self.n_cells))
            counts = self._counts[own]
            quality = pd.DataFrame(
                {
                    "n_genes_by_counts": self._genes[own],
                    "total_counts": self._totals[own],
                    "pct_counts_mt": self._mito[own],
                }
            )
            kept = np.diff(counts.indptr) >= max(self._options.min_genes, 1)
            yield CellBlock(start, counts, self._totals[own], quality, kept)


def open_input(path: Path, vocab: GeneVocab, options: ReadOptions) -> Any:
    """Open a source.

    Raises
    ------
    UserError
        If it is missing, damaged, without counts or without genes of the store.
    """
    return _Whole(path, vocab, options)


def fingerprint(path: Path) -> dict[str, int]:
    """Return what tells cheaply whether a source has changed: its size in bytes and time of change (ns)."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    return {"bytes": sum(s.st_size for s in stats), "changed": max((s.st_mtime_ns for s in stats), default=0)}


def checksum(path: Path) -> str:
    """Return the SHA-256 of a source: of a file's contents, or of the names and contents in a folder."""
    digest = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(os.fsencode(file.relative_to(path)) + b"\0")
        with file.open("rb") as contents:
            while piece := contents.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()
