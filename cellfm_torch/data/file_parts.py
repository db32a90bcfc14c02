"""Cells of files as batches are made from them: in memory, or streamed from files that are too large for that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import pandas as pd
from rich.console import Console
from rich.progress import Progress

from cellfm_torch.data.file_table import FileTable, NotStored
from cellfm_torch.data.files import Given, Input, find_inputs
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.reader import Cells, none_left, read_cells, read_file, told_apart
from cellfm_torch.data.report import ReadReport, print_report
from cellfm_torch.data.sources.probe import look_at
from cellfm_torch.data.table import CellTable, JoinedTable, MemoryTable
from cellfm_torch.errors import UserError
from cellfm_torch.memory.device import total_memory
from cellfm_torch.processes import rank

Stream = bool | Literal["auto"]

MOST_MEMORY = 0.5
"""Files are streamed where their counts would take more than this share of the machine's memory."""

ENTRY_BYTES = 16
"""Memory per count while files are read: a gene and a number of four bytes each, twice while files are joined."""

MOST_RATIO = 25
"""Memory of counts over the size of their file, at most: smaller files need not be looked into. Usual: 5 to 10."""


class FilePart:
    """Cells of files, in memory."""

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self.obs = cells.obs
        self.table: CellTable = MemoryTable(cells.counts)
        self.columns = [str(name) for name in cells.obs.columns]
        self.reports = cells.reports

    def say(self) -> None:
        """Print what was read."""
        print_report(self.reports)

    def column(self, name: str) -> pd.Series:
        """Return an annotation."""
        return self.obs[name]


class Opened(NamedTuple):
    """A file of a streamed part: its cells kept."""

    table: CellTable
    obs: pd.DataFrame
    report: ReadReport


class StreamedPart:
    """Cells of files that stay on disk."""

    def __init__(self, files: Sequence[Opened]) -> None:
        self.reports = reports = tuple(file.report for file in files)
        filled = [file for file in files if len(file.table)]
        if not filled:
            raise none_left(reports)
        self.obs = pd.concat([file.obs for file in filled])
        self.table: CellTable = filled[0].table if len(filled) == 1 else JoinedTable([file.table for file in filled])
        self.columns = [str(name) for name in self.obs.columns]

    def say(self) -> None:
        """Print what was read."""
        print_report(self.reports)
        Console().print("counts stay on disk and are read as they are needed", highlight=False)

    def column(self, name: str) -> pd.Series:
        """Return an annotation."""
        return self.obs[name]


def open_files(
    path: Given | list[Given], vocab: GeneVocab, *, stream: Stream = "auto", block_size: int = 1, **options: Any
) -> FilePart | StreamedPart:
    """Read files, or prepare to stream them.

    Parameters
    ----------
    path
        One file, glob, manifest or AnnData, or a list of them.
    vocab
        The model's genes.
    stream
        Leave the counts on disk. ``"auto"``: where they would take more than half of the machine's memory, and of
        those files that permit it.
    block_size
        Cells of a streamed file that stay together in a shuffle.
    options
        Fields of :class:`~cellfm_torch.data.options.ReadOptions`.

    Raises
    ------
    UserError
        If a file cannot be used, or not be streamed although that was asked for.
    """
    read = ReadOptions(**options)
    entries = find_inputs(path)
    if stream is False or (stream == "auto" and not too_large(entries, read)):
        return FilePart(read_cells(path, vocab, **options))
    files = []
    with Progress(console=Console(stderr=True), transient=True, disable=rank() > 0) as progress:
        for entry in told_apart(entries):
            task = progress.add_task(f"counting genes in {entry.path.name}", total=None)

            def advance(path: Path, done: int, total: int, task: Any = task) -> None:
                progress.update(task, completed=done, total=total)

            try:
                table = FileTable(entry, vocab, read, block_size=block_size, progress=advance)
                files.append(Opened(table, *table.take_annotations()))
            except NotStored:
                if stream is True:
                    raise UserError(
                        f"{entry.path}: cannot be streamed: that takes an HDF5 file with whole counts sorted by cell "
                        "(CSR); leave data.stream out to read it into memory, or make a store with cellfm prepare"
                    ) from None
                cells = read_file(entry, vocab, read)
                files.append(Opened(MemoryTable(cells.counts, block_size=block_size), cells.obs, *cells.reports))
            progress.remove_task(task)
    return StreamedPart(files)


def too_large(entries: Sequence[Input], options: ReadOptions) -> bool:
    """Whether the counts of files would take more than `MOST_MEMORY` of the machine's memory.

    It is its memory that counts, not what is free, so that all processes of a run and all runs decide alike.
    """
    most = MOST_MEMORY * total_memory()
    files = [entry.path for entry in entries if entry.adata is None and entry.path.is_file()]
    if MOST_RATIO * sum(path.stat().st_size for path in files) <= most:
        return False
    return ENTRY_BYTES * sum(stored_counts(path, options.layer) for path in files) > most


def stored_counts(path: Path, layer: str | None) -> int:
    """Return how many counts a sparse matrix in an HDF5 file has; 0 where there is none to be found."""
    try:
        if not h5py.is_hdf5(path):
            return 0
        look_at(path)
        with h5py.File(path) as file:
            root = file.get("mod/rna", file)
            places = ["X", "matrix"] if layer is None else [f"layers/{layer}", f"{layer}/X"]
            return next((int(root[place]["data"].shape[0]) for place in places if place in root), 0)
    except Exception:  # whatever it is, the reader says it better
        return 0
