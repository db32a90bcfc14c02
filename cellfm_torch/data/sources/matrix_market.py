"""Matrix Market text, through pandas: SciPy's reader writes beyond its arrays where lines of a damaged file are blank.

Shapes: R rows, C columns, E entries.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellfm_torch.data.sources.text import open_text

FIELDS = {"integer": np.int64, "real": np.float64, "double": np.float64}
LINES = 1 << 22
"""That are parsed at a time."""


def read_matrix(path: Path, cells: int, genes: int) -> sp.csr_matrix:
    """Read a matrix of numbers, sparse (``coordinate``) or dense (``array``).

    Parameters
    ----------
    path
        The file, packed or not.
    cells, genes
        Its rows and columns, either way round: memory is taken for nothing else.

    Raises
    ------
    ValueError
        If it is something else, or not what its first lines say.
    """
    with open_text(path) as file:
        kind, field = _kind(file.readline())
        shape, entries = _size(file, 3 if kind == "coordinate" else 2)
        if shape not in ((cells, genes), (genes, cells)):
            raise ValueError(f"its matrix is {shape}, its tables are of {cells} and {genes}")
        if kind == "array":
            values = _columns(file, {"value": FIELDS[field]}, shape[0] * shape[1])[0]
            return sp.csr_matrix(values.reshape(shape, order="F"))
        rows, columns, values = _columns(file, {"row": np.int64, "column": np.int64, "value": FIELDS[field]}, entries)
    for at, size in ((rows, shape[0]), (columns, shape[1])):
        if len(at) and not 1 <= at.min() <= at.max() <= size:
            raise ValueError(f"an entry lies outside of its {size:,} rows or columns")
    return sp.csr_matrix((values, (rows - 1, columns - 1)), shape=shape)


def _kind(line: str) -> tuple[str, str]:
    """Return what the first line says: coordinate or array, and the kind of numbers."""
    words = line.lower().split()
    if len(words) != 5 or words[:2] != ["%%matrixmarket", "matrix"] or words[2] not in ("coordinate", "array"):
        raise ValueError(f"its first line is {line[:80].strip()!r}")
    if words[3] not in FIELDS or words[4] != "general":
        raise ValueError(f"it is {words[3]} {words[4]}: counts are integer general or real general")
    return words[2], words[3]


def _size(file: IO[str], numbers: int) -> tuple[tuple[int, int], int]:
    """Return the shape and the number of entries, from the first line that is no comment."""
    line = next((line for line in file if line.strip() and not line.startswith("%")), "")
    words = line.split()
    if len(words) != numbers or not all(word.isdecimal() and len(word) < 19 for word in words):
        raise ValueError(f"its line of sizes is {line[:80].strip()!r}")
    rows, columns, *entries = map(int, words)
    return (rows, columns), entries[0] if entries else rows * columns


def _columns(file: IO[str], types: dict[str, type], wanted: int) -> list[np.ndarray]:
    """Return the columns of the rest of a file, (E,) each."""
    chunks = pd.read_csv(
        file,
        sep=r"\s+",
        header=None,
        names=list(types),
        dtype=types,
        comment="%",
        index_col=False,
        na_filter=False,
        chunksize=LINES,
    )
    found = [[chunk[name].to_numpy() for name in types] for chunk in chunks]
    columns = [np.concatenate(parts) for parts in zip(*found, strict=True)] or [np.zeros(0, t) for t in types.values()]
    if len(columns[0]) != wanted:
        raise ValueError(f"it has {len(columns[0]):,} entries and says that it has {wanted:,}: its end is missing?")
    return columns
