"""Cells in memory over a model's vocabulary, some of them labelled, as batches of any of their rows.

Shapes: n cells, G genes of the vocabulary, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfm_torch.batch import InputSpec
from cellfm_torch.data.asked import choose_target_depth
from cellfm_torch.data.dataset import CellDataset
from cellfm_torch.data.files import Given
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.loader import CellLoader
from cellfm_torch.data.order import BlockOrder
from cellfm_torch.data.reader import Cells, read_cells
from cellfm_torch.data.sampler import TokenBudgetSampler
from cellfm_torch.data.shares import plain_order
from cellfm_torch.data.table import MemoryTable
from cellfm_torch.errors import UserError, nearest

TOKEN_BUDGET = 16384
"""Gene tokens per batch: about the 16 cells of the published fine-tuning."""


class CellSet:
    """Cells of a file or an AnnData; none is left out, those without counts included.

    Attributes
    ----------
    cells : Cells
        Counts over the vocabulary, annotations and reports.
    spec : InputSpec
        What the model eats.
    """

    def __init__(self, cells: Cells, spec: InputSpec, *, token_budget: int = TOKEN_BUDGET) -> None:
        self.cells = cells
        self.spec = spec
        self.token_budget = token_budget
        self._table = MemoryTable(cells.counts)
        self._target_depth = choose_target_depth(spec, None)

    @classmethod
    def read(cls, source: Given, spec: InputSpec, *, token_budget: int = TOKEN_BUDGET, **reading: Any) -> CellSet:
        """Read raw counts.

        Parameters
        ----------
        source
            A file of any known format, or an AnnData.
        spec
            ``model.input_spec``.
        token_budget
            Gene tokens per batch, raised to twice the longest cell where that is more.
        reading
            Fields of :class:`~cellfm_torch.data.options.ReadOptions`, such as ``layer``.

        Raises
        ------
        UserError
            If the file cannot be used as asked, or the model does not know its genes.
        """
        if spec.genes is None:
            raise UserError("the model does not know which genes its rows stand for: give it a genes.txt in its folder")
        vocab = GeneVocab(spec.genes, first_id=spec.first_id)
        reading = {"min_genes": 0, "most_counts": spec.most_counts, **reading}
        return cls(read_cells(source, vocab, **reading), spec, token_budget=token_budget)

    def with_genes_of(self, other: CellSet) -> CellSet:
        """Return the same cells as if only the genes with counts in `other` had been measured."""
        there = np.zeros(self.counts.shape[1], dtype=np.int32)
        there[other.counts.getnnz(axis=0) > 0] = 1
        counts = self.counts.multiply(there[None, :]).tocsr().astype(np.int32)
        counts.eliminate_zeros()
        counts.sort_indices()
        return CellSet(dataclasses.replace(self.cells, counts=counts), self.spec, token_budget=self.token_budget)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def obs(self) -> pd.DataFrame:
        """Annotations, n rows."""
        return self.cells.obs

    @property
    def counts(self) -> sp.csr_matrix:
        """Whole counts over the vocabulary, (n, G)."""
        return self.cells.counts

    @property
    def lengths(self) -> NDArray[np.integer]:
        """Genes of the vocabulary that each cell expresses, (n,)."""
        return self._table.lengths

    def column(self, name: str, *, option: str) -> pd.Series:
        """Return an annotation as text, n rows, None where it is missing or empty.

        Raises
        ------
        UserError
            If there is no such column; `option` says what asked for it.
        """
        there = [str(column) for column in self.obs.columns]
        if name not in there:
            raise UserError(f"{option}={name}: no such column in obs (it has {', '.join(there)}){nearest(name, there)}")
        column = self.obs[name].astype(object)
        missing = column.isna() | (column.astype(str).str.strip() == "")
        return column.where(missing, column.astype(str)).where(~missing, None)

    def loader(
        self,
        rows: NDArray[np.integer] | None = None,
        *,
        codes: NDArray[np.integer] | None = None,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> CellLoader:
        """Return batches of some cells.

        Parameters
        ----------
        rows : (r,) int, optional
            Which, ascending; None: all that have counts.
        codes : (n,) int, optional
            Class of each cell, -1 for none; becomes ``batch.labels``.
        shuffle
            To train on: in a new order each epoch, and as many genes of a long cell as the model was trained with.
            Otherwise in the order of the rows and with all genes: a sample of them would depend on where a cell stands.
        seed
            Of the order, and of the genes that are sampled from long cells.
        rank, world_size, accumulate
            This process gets its share of the batches, see :class:`~cellfm_torch.data.sampler.TokenBudgetSampler`.
        """
        rows = np.flatnonzero(self.lengths > 0) if rows is None else np.asarray(rows)
        labels = None if codes is None else np.asarray(codes, dtype=np.int64)
        spec = self.spec if shuffle else self.spec.sampling(None)
        dataset = CellDataset(
            self._table,
            spec,
            rows=rows,
            masking=None,
            target_depth=self._target_depth,
            seed=seed,
            fixed=not shuffle,
            labels=labels,
        )
        lengths = dataset.lengths
        budget = max(self.token_budget, 2 * int(lengths.max(initial=1)))
        order = BlockOrder(dataset.blocks, seed=seed) if shuffle else plain_order(dataset.blocks, fetch_cells=16384)
        sampler = TokenBudgetSampler(
            lengths, token_budget=budget, order=order, rank=rank, world_size=world_size, accumulate=accumulate
        )
        return CellLoader(dataset, sampler=sampler)


class LabelledCells(pl.LightningDataModule):
    """Cells to train on and cells held out, for a Trainer on any number of devices.

    Parameters
    ----------
    cells
        The cells.
    codes : (n,)
        Class of each.
    train, held_out : int arrays
        Rows, ascending; there may be none held out.
    seed
        Of the order.
    """

    def __init__(
        self,
        cells: CellSet,
        codes: NDArray[np.integer],
        *,
        train: NDArray[np.integer],
        held_out: Sequence[int] | NDArray[np.integer] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.cells, self.codes, self.seed = cells, codes, seed
        self.train, self.held_out = train, np.asarray(held_out, dtype=np.int64)

    def _loader(self, rows: NDArray[np.integer], *, shuffle: bool) -> CellLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        accumulate = self.trainer.accumulate_grad_batches if self.trainer and shuffle else 1
        return self.cells.loader(
            rows,
            codes=self.codes,
            shuffle=shuffle,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            accumulate=accumulate,
        )

    def train_dataloader(self) -> CellLoader:
        """Return the training cells, in a new order each epoch."""
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> Any:
        """Return the held-out cells in order; nothing where there are none."""
        return self._loader(self.held_out, shuffle=False) if len(self.held_out) else []
