"""Cells in groups, as a gene task goes through them: one group after the other, in the order of the file.

Shapes: n cells, r cells of a group.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from rich.console import Console

from cellfm_torch.batch import CellBatch
from cellfm_torch.data.fingerprint import fingerprint
from cellfm_torch.data.module import CellDataModule
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.source import SOURCE_COLUMN
from cellfm_torch.errors import UserError, examples, nearest
from cellfm_torch.model.loading import Backbone

ALL = "all"
"""Name of the one group where cells are not grouped."""

READING = {field.name for field in dataclasses.fields(ReadOptions)} | {"stream", "target_depth", "totals"}
"""Options of how cells are read."""

MADE = {SOURCE_COLUMN, "n_genes_by_counts", "total_counts", "pct_counts_mt"}
"""Columns of obs that reading makes."""

LEAST_CELLS = 10
"""Groups of fewer cells are left out: a mean over them would say more of the cells than of the group."""


@dataclass
class CellGroups:
    """Cells of a file, in groups.

    Attributes
    ----------
    data : CellDataModule
        The cells.
    rows : dict of str to (r,) int arrays
        Rows of each group's cells that have counts in the model's genes, ascending.
    source : dict
        What identifies the cells, for a job that is gone on with.
    """

    data: CellDataModule
    rows: dict[str, NDArray[np.int64]]
    source: dict[str, Any]

    @classmethod
    def read(
        cls,
        cells: AnnData | str | Path,
        model: Backbone,
        *,
        by: str | None = None,
        groups: Sequence[str] | None = None,
        least_cells: int = LEAST_CELLS,
        most_cells: int | None = None,
        seed: int = 0,
        token_budget: int = 16384,
        verbose: bool = True,
        **reading: Any,
    ) -> CellGroups:
        """Open cells; the counts of a large file stay on disk.

        Parameters
        ----------
        cells
            A file of any known format, or an AnnData; raw counts.
        model
            The network, which says what it eats.
        by
            Column of obs with the group of each cell; None: all cells are one.
        groups
            Which; None: all with enough cells.
        least_cells
            Groups of fewer cells are left out, or refused where they were asked for.
        most_cells
            Of larger groups so many are drawn.
        seed
            Of the draw.
        token_budget
            Gene tokens per batch, raised to twice the longest cell where that is more.
        reading
            How the file is read, see :class:`~cellfm_torch.data.module.CellDataModule`.

        Raises
        ------
        UserError
            If the cells cannot be read, there is no such column or group, or no group has enough cells.
        """
        known = {*inspect.signature(cls.read).parameters, *READING}
        if wrong := [name for name in reading if name not in READING]:
            raise UserError(f"there is no option '{wrong[0]}'{nearest(wrong[0], known)}")
        if isinstance(groups, str):
            groups = [groups]
        data = CellDataModule(
            cells,
            input_spec=model.input_spec.sampling(None),
            token_budget=token_budget,
            min_genes=0,
            label=by,
            verbose=verbose,
            **reading,
        )
        lengths, name = data.table.lengths, "AnnData" if isinstance(cells, AnnData) else str(cells)
        there = [column for column in data.collection.columns if column not in MADE]
        if by is not None and by not in data.collection.columns:
            raise UserError(f"by={by}: no such column in obs of {name} (it has {', '.join(there)}){nearest(by, there)}")
        if not lengths.any():
            raise UserError(f"{name}: none of its {len(lengths):,} cells has counts in the model's genes")
        data.token_budget = None  # open, or the least one cannot be asked for
        data.token_budget = max(token_budget, data.least_token_budget)
        found = {ALL: np.flatnonzero(lengths > 0)} if by is None else _by_label(data, lengths)
        rows = _chosen(found, groups, by=by, least=least_cells, name=name, verbose=verbose)
        if most_cells is not None:
            rng, before = np.random.default_rng(seed), sum(map(len, rows.values()))
            rows = {
                group: np.sort(rng.choice(kept, most_cells, replace=False)) if len(kept) > most_cells else kept
                for group, kept in rows.items()
            }
            drawn = sum(map(len, rows.values()))
            if drawn < before and verbose:
                what = f"drawn: {drawn:,} of {before:,} cells, at most {most_cells:,} of a group (most_cells)"
                Console().print(what, highlight=False, markup=False, soft_wrap=True)
        source = {"cells": name, **({} if isinstance(cells, AnnData) else fingerprint(Path(cells)))}
        return cls(data, rows, source)

    def batches(self, rows: NDArray[np.int64]) -> Iterator[CellBatch]:
        """Yield some cells as batches, in the order of the rows, with all their genes and nothing hidden."""
        if len(rows):
            self.data.predict_rows = rows
            yield from self.data.predict_dataloader()


def _by_label(data: CellDataModule, lengths: NDArray[np.integer]) -> dict[str, NDArray[np.int64]]:
    classes = data.classes
    codes = np.where(lengths > 0, classes.codes, -1)
    return {str(name): np.flatnonzero(codes == i) for i, name in enumerate(classes.categories)}


def _chosen(
    there: dict[str, NDArray[np.int64]],
    wanted: Sequence[str] | None,
    *,
    by: str | None,
    least: int,
    name: str,
    verbose: bool,
) -> dict[str, NDArray[np.int64]]:
    what = "cells" if by is None else f"obs['{by}']"
    for group in wanted or ():
        if group not in there:
            raise UserError(f"{name}: no group '{group}' in {what}{nearest(group, there)}")
        if len(there[group]) < least:
            raise UserError(
                f"{name}: group '{group}' of {what} has {_cells(len(there[group]))} with counts, fewer than {least}: "
                "give more cells, or least_cells=1"
            )
    small = {group: rows for group, rows in there.items() if len(rows) < least}
    kept = {group: there[group] for group in (wanted or there) if group not in small}
    if not kept:
        most = max(map(len, there.values()), default=0)
        raise UserError(
            f"{name}: no group of {what} has {least} cells with counts, the largest has {_cells(most)}: give more "
            "cells, or least_cells=1"
        )
    if small and wanted is None and verbose:
        said = examples(f"{group} ({len(rows)})" for group, rows in small.items())
        line = f"left out: {len(small)} of {len(there)} groups, with fewer than {least} cells: {said}"
        Console().print(line, highlight=False, markup=False, soft_wrap=True)
    return kept


def _cells(number: int) -> str:
    return "1 cell" if number == 1 else f"{number:,} cells"
