"""What a prepared store takes from a source: whole counts over its genes, block by block, and the annotations.

Shapes: n cells of a source, b cells of a block, G genes of the store.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.data import counts as ops
from cellfm_torch.data.files import choose_layer, gene_names, no_gene_matches, open_h5ad
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.reader import ReadOptions, _whole_counts


@dataclass(frozen=True)
class Input:
    """A source that is being read.

    Attributes
    ----------
    num_cells : int
        n.
    obs : DataFrame, n rows
        Annotations.
    genes : dict
        Numbers about its genes: ``genes_read``, ``genes_matched``, ``name_kind``.
    blocks : iterator of ((b, G) CSR, (b,) float64)
        Counts before any rescale, and the totals over all genes of the source.
    """

    num_cells: int
    obs: pd.DataFrame
    genes: dict[str, Any]
    blocks: Iterator[tuple[sp.csr_matrix, NDArray[np.float64]]]


def open_input(path: Path, vocab: GeneVocab, options: dict[str, Any], *, size: int) -> Input:
    """Open a source; its counts come in blocks of `size` cells.

    Raises
    ------
    UserError
        If it is missing, damaged, without counts or without genes of the store.
    """
    read = ReadOptions(**options)
    adata = open_h5ad(path)
    source, var = choose_layer(adata, read.layer, file=path)
    match = vocab.match(gene_names(var, read.gene_column, file=path))
    if not match.matched:
        raise no_gene_matches(match, var, vocab, file=path)
    matrix, _ = _whole_counts(ops.to_csr(source), adata, match, path, read)
    mapped = ops.to_vocabulary(matrix, match, len(vocab), duplicates=read.duplicates)
    totals = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    return Input(
        num_cells=len(totals),
        obs=adata.obs,
        genes={
            "genes_read": len(match.rows),
            "genes_matched": int((match.rows >= 0).sum()),
            "name_kind": match.kind,
        },
        blocks=((mapped[a : a + size], totals[a : a + size]) for a in range(0, len(totals), size)),
    )


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
