"""Files of cells, damaged: each must end in cells, the same in memory and streamed, or in one clear line."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from harness import Case, judged
from mutations import GROUPS, damaged_file

from cellfm_torch.data.file_parts import open_files
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.reader import read_cells
from cellfm_torch.errors import UserError


def cells(number: int, folder: Path) -> Case:
    """Any format."""
    genes = list(GeneVocab.bundled(24078).symbols[500:560])
    path, what = damaged_file(number, folder, genes)

    def read() -> str:
        found = read_cells(path, GeneVocab(genes), min_genes=1)
        counts = found.counts
        if not streams_alike(path, GeneVocab(genes), counts):
            return "streamed otherwise"
        sound = counts.dtype == np.int32 and counts.nnz and counts.data.min() > 0 and counts.shape == (len(found), 60)
        return "" if sound else "no counts"

    return judged(what, read, (folder.name, path.name))


def h5ad(number: int, folder: Path) -> Case:
    """h5ad only."""
    return cells(number * len(GROUPS) + list(GROUPS).index("h5ad"), folder)


def streams_alike(path: Path, vocab: GeneVocab, counts: sp.csr_matrix) -> bool:
    """Whether a file that stays on disk gives the counts that were read into memory, if it can be streamed."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the report of the cells
            part = open_files(path, vocab, stream=True, min_genes=1)
    except UserError as refusal:
        return "cannot be streamed" in str(refusal)
    rows = part.table.read(np.arange(len(part.table)))
    arrays = zip(rows, (counts.indptr, counts.indices, counts.data), strict=True)
    return all(np.array_equal(ours, theirs) for ours, theirs in arrays)
