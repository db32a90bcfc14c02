"""The cells that ``data.path`` stands for: of files, of prepared stores, or of both.

Shapes: n cells of all parts together, P parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from rich.console import Console

from cellfm_torch.data.file_parts import FilePart, StreamedPart
from cellfm_torch.data.files import Given, as_list
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.reader import Cells
from cellfm_torch.data.report import ReadReport
from cellfm_torch.data.source import SOURCE_COLUMN
from cellfm_torch.data.store import Store, is_store, join_columns
from cellfm_torch.data.store_table import StoreTable
from cellfm_torch.data.table import CellTable, JoinedTable
from cellfm_torch.errors import UserError


class Part(Protocol):
    """Some of the cells, from one place; `reports` are of the files, none of a store's."""

    columns: list[str]
    reports: tuple[ReadReport, ...]

    @property
    def table(self) -> CellTable:
        """The counts."""

    def column(self, name: str) -> pd.Series:
        """Return an annotation of the part's cells."""

    def say(self) -> None:
        """Print what was read."""


class StorePart:
    """Cells of a prepared store, on disk; options are those of :class:`StoreTable`."""

    def __init__(self, store: Store, vocab: GeneVocab, **options: Any) -> None:
        self.store = store
        self.table = StoreTable(store, vocab, **options)
        self.columns = list(dict.fromkeys([*store.columns, SOURCE_COLUMN]))
        self.reports: tuple[ReadReport, ...] = ()

    def say(self) -> None:
        """Print what was opened, and what was left out."""
        console = Console()
        line = (
            f"{self.store.path}: {len(self.table):,} of {len(self.store):,} cells of {len(self.store.sources):,} files"
        )
        console.print(line, highlight=False, soft_wrap=True)
        for problem in self.store.skipped:
            console.print(f"left out, as asked: {problem}", highlight=False, soft_wrap=True)

    def column(self, name: str) -> pd.Series:
        """Return an annotation."""
        column = pd.Series(self.store.column(name))
        return column if self.table.rows is None else column.iloc[self.table.rows].reset_index(drop=True)


@dataclass(frozen=True)
class Collection:
    """All cells, in the order of the paths given.

    Attributes
    ----------
    parts : list of Part
    """

    parts: list[Part]

    @cached_property
    def table(self) -> CellTable:
        """The counts, as batches are made from them."""
        return self.parts[0].table if len(self.parts) == 1 else JoinedTable([part.table for part in self.parts])

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Row of the first cell of each part, and n, (P + 1,)."""
        return np.concatenate([[0], np.cumsum([len(part.table) for part in self.parts], dtype=np.int64)])

    @cached_property
    def columns(self) -> list[str]:
        """Names of the annotations that any part has."""
        return list(dict.fromkeys(name for part in self.parts for name in part.columns))

    def column(self, name: str) -> pd.Series:
        """Return an annotation of all cells (n,), with missing values where a part has none of this name."""
        if len(self.parts) == 1:
            return self.parts[0].column(name)
        parts = [
            part.column(name) if name in part.columns else pd.Series(np.full(len(part.table), np.nan))
            for part in self.parts
        ]
        return pd.Series(join_columns(parts))

    @cached_property
    def obs(self) -> pd.DataFrame:
        """All annotations, n rows."""
        only = self.parts[0]
        if len(self.parts) == 1 and isinstance(only, FilePart | StreamedPart):
            return only.obs
        return pd.DataFrame({name: self.column(name) for name in self.columns})

    @property
    def reports(self) -> tuple[ReadReport, ...]:
        """What became of the cells and genes of each file; nothing of stores, which were reported on when prepared."""
        return tuple(report for part in self.parts for report in part.reports)

    @rank_zero_only
    def say(self) -> None:
        """Print what was read, once for all processes."""
        for part in self.parts:
            part.say()

    def cells(self) -> Cells:
        """Return the cells of files.

        Raises
        ------
        UserError
            If some are on disk.
        """
        only = self.parts[0]
        if len(self.parts) == 1 and isinstance(only, FilePart):
            return only.cells
        if isinstance(only, StreamedPart):
            raise UserError("the cells of streamed files are not held in memory: read them with data.stream=false")
        raise UserError("the cells of a prepared store are not held in memory: give the files it was made from")


def collect(
    path: Given | Iterable[Given],
    vocab: GeneVocab,
    *,
    open_files: Callable[[Any], Part],
    min_genes: int,
    max_genes: int | None,
    most_counts: float,
    block_size: int,
    skip_damaged: bool = False,
    separate: bool = False,
) -> Collection:
    """Open what a path or a list of paths stands for.

    Parameters
    ----------
    path
        Files, globs and prepared stores.
    open_files
        Opens files, globs and manifests.
    min_genes, max_genes, most_counts, block_size, skip_damaged
        See :class:`StoreTable` and :class:`Store`.
    separate
        Each path is a part of its own; otherwise files side by side are one part.
    """
    parts: list[Part] = []
    waiting: list[Given] = []
    for item in [*as_list(path), None]:
        stored = is_store(item)
        if waiting and (item is None or stored or separate):
            parts.append(open_files(waiting))
            waiting = []
        if stored:
            store = Store(Path(str(item)), skip_damaged=skip_damaged)
            limits = {"min_genes": min_genes, "max_genes": max_genes, "most_counts": most_counts}
            parts.append(StorePart(store, vocab, **limits, block_size=block_size))
        elif item is not None:
            waiting.append(item)
    if not parts:
        open_files([])  # says that no file was given
    return Collection(parts)
