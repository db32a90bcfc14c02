"""Tables of counts as text: csv, tsv and their like, with cells or genes in rows, through pandas.

Shapes: C cells of a file, V genes, F columns of the table besides the row names.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellfm_torch.data.gene_match import guess_species
from cellfm_torch.data.sources.base import PIECE, Matrix, MemoryMatrix, NoMatrixError
from cellfm_torch.errors import UserError, examples, shortened

OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
"""How files are opened by their first bytes, whatever their name says."""

QUALITY = re.compile(
    r"(n|num|total|log1p_total|log1p_n)_(genes|counts|umis?|features)(_by_counts)?(_mt)?|n_?(Count|Feature)_\w+|"
    r"(pct|percent)[._]\w+|doublet_scores?|.*clusters?|louvain|leiden|batch|size_?factors?",
    re.IGNORECASE,
)
"""Names of columns with numbers that are annotations of cells, not genes."""

SAMPLE_ROWS = 50
"""Rows that tell which columns hold numbers."""


LONGEST_LINE = 1 << 26
"""Characters. A cell of 100,000 genes takes a hundredth of that; a few packed kilobytes can stand for a line of any
length, which would be held as a whole."""


class _Lines(io.TextIOWrapper):
    """Text whose lines are not longer than anybody's."""

    _since = 0

    def read(self, size: int | None = -1) -> str:
        """Return so many characters, or all that are left."""
        chunk = super().read(size)
        last = chunk.rfind("\n")
        self._since = self._since + len(chunk) if last < 0 else len(chunk) - last - 1
        if self._since > LONGEST_LINE:
            raise ValueError(f"a line of more than {LONGEST_LINE:,} characters")
        return chunk

    def readline(self, size: int = -1) -> str:  # type: ignore[override]
        """Return a line."""
        line = super().readline(min(size, LONGEST_LINE) if size >= 0 else LONGEST_LINE)
        if len(line) == LONGEST_LINE and not line.endswith("\n"):
            raise ValueError(f"a line of more than {LONGEST_LINE:,} characters")
        return line

    def __next__(self) -> str:  # type: ignore[override]
        if line := self.readline():
            return line
        raise StopIteration


def open_text(path: Path) -> IO[str]:
    """Open a text file, compressed or not; reading raises ValueError where a line is longer than any sound one."""
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), open)
    return _Lines(opener(path, "rb"), encoding="utf-8-sig", newline="")


def read_header(path: Path) -> tuple[list[str], str]:
    """Return the fields of the first line, and what separates them."""
    with open_text(path) as file:
        line = file.readline().rstrip("\r\n")
    separator = max(",\t;", key=line.count)
    if not line.count(separator):
        separator = " "
    return [field.strip() for field in next(csv.reader([line], delimiter=separator), [])], separator


class _Table:
    """The layout of a table: names of its columns, and which of them hold numbers."""

    def __init__(self, path: Path, is_gene: Callable[[str], bool]) -> None:
        self.path = path
        header, self._separator = read_header(path)
        sample = next(self.frames(SAMPLE_ROWS), None)
        if sample is None or len(header) < 2:
            raise UserError(f"{path}: is not a table of counts (one line or one column): give cells and genes")
        fields = sample.shape[1]
        if fields not in (len(header), len(header) + 1):
            raise UserError(f"{path}: names {len(header):,} columns but has {fields:,}: write it again")
        words = [i for i in range(fields) if _is_words(sample[i])]
        # R leaves the name of the row names out; pandas can leave the row names themselves out.
        self.named = fields > len(header) or 0 in words or not is_gene(header[0])
        self.names = header if fields > len(header) or not self.named else header[1:]
        first = int(self.named)
        self.words = [i - first for i in words if i >= first]
        self.numbers = [i for i in range(fields - first) if i not in set(self.words)]

    def frames(self, rows: int, columns: Sequence[int] | None = None) -> Iterator[pd.DataFrame]:
        """Yield the table, so many rows at a time; `columns` are counted with the row names."""
        with open_text(self.path) as file:
            try:
                yield from pd.read_csv(
                    file,
                    sep=self._separator,
                    header=None,
                    skiprows=1,
                    chunksize=rows,
                    usecols=columns,
                    dtype={0: str} if columns == [0] else None,
                    low_memory=False,
                )
            except pd.errors.EmptyDataError:
                return

    def column(self, index: int) -> list[str]:
        """Return a column as text; -1 for the row names."""
        at = index + int(self.named)
        return [str(value) for frame in self.frames(1 << 16, [at]) for value in frame[at]]

    def row_names(self) -> list[str]:
        """Return the names of the rows."""
        if self.named:
            return [name.strip() for name in self.column(-1)]
        return [str(i) for frame in self.frames(1 << 16, [0]) for i in frame.index]

    def blocks(self, size: int) -> Iterator[sp.csr_matrix]:
        """Yield the numbers, `size` rows at a time."""
        at = [i + int(self.named) for i in self.numbers]
        step = max(1, min(size, PIECE // max(len(at), 1)))
        parts: list[sp.csr_matrix] = []
        for frame in self.frames(step):
            parts.append(sp.csr_matrix(self._numbers(frame, at)))
            if len(parts) * step >= size:
                joined = sp.vstack(parts, format="csr")
                yield joined[:size]
                parts = [joined[size:]] if joined.shape[0] > size else []
        if parts:
            yield sp.vstack(parts, format="csr")

    def _numbers(self, frame: pd.DataFrame, at: Sequence[int]) -> np.ndarray:
        values = frame[list(at)]
        for i in (i for i in at if not pd.api.types.is_numeric_dtype(values[i]) or values[i].dtype == bool):
            column = pd.to_numeric(values[i].astype(object), errors="coerce")
            wrong = np.flatnonzero(column.isna() & values[i].notna())
            if len(wrong):
                name, value = shortened(self.names[i - int(self.named)]), shortened(values[i].iloc[wrong[0]])
                line = int(frame.index[wrong[0]]) + 2
                raise UserError(f"{self.path}: line {line:,}, column '{name}': '{value}' is not a number: correct it")
            values = values.assign(**{"": column}).drop(columns=[i]).rename(columns={"": i})[list(at)]
        return values.to_numpy(dtype=np.float64)


def _is_words(column: pd.Series) -> bool:
    """Whether no value of a column is a number."""
    return not pd.api.types.is_numeric_dtype(column) and bool(pd.to_numeric(column, errors="coerce").isna().all())


class _Rows:
    """The numbers of a table with cells in rows."""

    def __init__(self, table: _Table, cells: int) -> None:
        self.shape = (cells, len(table.numbers))
        self.blocks = table.blocks


class TextFile:
    """A table of counts with cells or genes in rows.

    Parameters
    ----------
    path
        The file.
    is_gene
        Whether a name is that of a gene; rows or columns are genes by what more of them are.

    Raises
    ------
    UserError
        If neither has a gene, or something is no number.
    """

    layers: tuple[str, ...] = ()

    def __init__(self, path: Path, is_gene: Callable[[str], bool]) -> None:
        self.path = path
        table = _Table(path, is_gene)
        rows = table.row_names()
        words = {table.names[i] or f"column {i + 1}": table.column(i) for i in table.words}
        in_columns = sum(map(is_gene, table.names))
        in_rows = max(sum(map(is_gene, names)) for names in (rows, *words.values()))
        if not in_columns and not in_rows and not guess_species(table.names):
            if not guess_species(rows):
                raise UserError(
                    f"{path}: has genes neither in its columns ({examples(table.names)}) nor in its rows "
                    f"({examples(rows)}): symbols or Ensembl ids of human genes are expected"
                )
            in_rows = 1
        if in_rows > in_columns:
            self.obs = pd.DataFrame(index=[table.names[i] for i in table.numbers])
            self._var = pd.DataFrame(words, index=rows)
            genes_by_cells = sp.vstack(list(table.blocks(1 << 14)), format="csr")
            self._matrix: Matrix = MemoryMatrix(genes_by_cells.T.tocsr())
        else:
            self.obs = pd.DataFrame(words, index=rows)
            for i in [i for i in table.numbers if QUALITY.fullmatch(table.names[i])]:
                table.numbers.remove(i)
                self.obs[table.names[i]] = pd.to_numeric(pd.Series(table.column(i)), errors="coerce").to_numpy()
            self._var = pd.DataFrame(index=[table.names[i] for i in table.numbers])
            self._matrix = _Rows(table, len(rows))

    def close(self) -> None:
        """Do nothing: the file is open only while it is read."""

    def matrix(self, layer: str | None) -> tuple[Matrix, pd.DataFrame]:
        """Return the matrix."""
        if layer is not None:
            raise NoMatrixError(layer)
        return self._matrix, self._var
