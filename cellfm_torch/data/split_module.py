"""The cells of a data module: read on first use, with their labels, and split into training and held-out cells.

Shapes: n cells kept, G genes of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from cellfm_torch.batch import InputSpec, Masking
from cellfm_torch.data.asked import total_counts
from cellfm_torch.data.budget import TokenBudgetDataModule
from cellfm_torch.data.collection import Collection
from cellfm_torch.data.means import gene_means
from cellfm_torch.data.reader import Cells
from cellfm_torch.data.report import ReadReport
from cellfm_torch.data.source import SOURCE_COLUMN
from cellfm_torch.data.split import split_cells, split_groups
from cellfm_torch.data.table import CellTable
from cellfm_torch.errors import UserError, nearest


class SplitCells(TokenBudgetDataModule):
    """What :class:`~cellfm_torch.data.module.CellDataModule` knows of its cells.

    Its constructor sets the attributes that are declared here; see there for what they mean.
    """

    _open: Callable[[], Collection]
    input_spec: InputSpec
    masking: Masking
    val_fraction: float
    split_by: str
    val_groups: Sequence[str] | None
    label: str | None
    totals: str | None
    seed: int
    verbose: bool

    @cached_property
    def collection(self) -> Collection:
        """The cells kept of all files and stores; opened on first use, then a report is printed."""
        opened = self._open()
        if self.verbose:
            rank_zero_only(opened.say)()
        return opened

    @property
    def reports(self) -> tuple[ReadReport, ...]:
        """What became of the cells and genes of each file."""
        return self.collection.reports

    @property
    def table(self) -> CellTable:
        """The counts of the cells kept, as batches are made from them."""
        return self.collection.table

    @property
    def cells(self) -> Cells:
        """The cells kept of all files, in file order; those of a prepared store are not held in memory."""
        return self.collection.cells()

    def read(self) -> Cells:
        """Return the cells kept of all files, in file order."""
        return self.cells

    @property
    def obs(self) -> pd.DataFrame:
        """Annotations of the cells kept, n rows; those of a store are numbered, not named."""
        return self.collection.obs

    def _column(self, name: str, option: str) -> pd.Categorical:
        """Return a column of obs as categories, of those that occur."""
        there = self.collection.columns
        if name not in there:
            raise UserError(
                f"data.{option}={name}: no such column in obs (it has {', '.join(there)}){nearest(name, there)}"
            )
        return pd.Categorical(self.collection.column(name)).remove_unused_categories()

    @cached_property
    def _classes(self) -> pd.Categorical | None:
        return None if self.label is None else self._column(self.label, "label")

    @cached_property
    def _totals(self) -> NDArray[np.float64] | None:
        return None if self.totals is None else total_counts(self.collection, self.totals)

    @property
    def classes(self) -> pd.Categorical:
        """Class of each cell kept, n values, by the column that `label` names.

        Raises
        ------
        UserError
            If no label was given, or there is no such column.
        """
        if self._classes is None:
            raise UserError("data.label: name a column of obs")
        return self._classes

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes; a batch's labels index them, -1 for a cell without one."""
        return () if self._classes is None else tuple(str(name) for name in self._classes.categories)

    @cached_property
    def _split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the training and of the validation cells, both ascending; cells without counts are neither."""
        if self.split_by == "cell":
            held_out = split_cells(len(self.table), self.val_fraction, seed=self.seed)
        else:
            by = SOURCE_COLUMN if self.split_by == "dataset" else self.split_by
            groups = self._column(by, "split_by")
            held_out = split_groups(groups, self.val_fraction, seed=self.seed, names=self.val_groups, by=self.split_by)
        there = self.table.lengths > 0
        return np.flatnonzero(there & ~held_out), np.flatnonzero(there & held_out)

    @property
    def train_cells(self) -> NDArray[np.int64]:
        """Rows of the training cells among the cells kept, ascending."""
        return self._split[0]

    @property
    def val_cells(self) -> NDArray[np.int64]:
        """Rows of the held-out cells among the cells kept, ascending."""
        return self._split[1]

    @cached_property
    def gene_means(self) -> NDArray[np.float32]:
        """Mean value (log1p CP10k) of each gene over the training cells, by gene id: the baseline predictor."""
        return gene_means(self.table, self.train_cells, self.input_spec, masking=self.masking, seed=self.seed)
