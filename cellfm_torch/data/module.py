"""CellDataModule: files of cells in, batches for training, validation and prediction out.

Shapes: r cells asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.batch import InputSpec
from cellfm_torch.data.asked import choose_downsample, choose_masking, choose_target_depth
from cellfm_torch.data.collection import collect
from cellfm_torch.data.dataset import CellDataset
from cellfm_torch.data.file_parts import Stream, open_files
from cellfm_torch.data.files import Given, as_list
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.loader import CellLoader
from cellfm_torch.data.options import ReadOptions
from cellfm_torch.data.sampler import TokenBudgetSampler
from cellfm_torch.data.shares import plain_order, shuffled_order
from cellfm_torch.data.split_module import SplitCells
from cellfm_torch.errors import UserError


class CellDataModule(SplitCells):
    """Cells of files or of an AnnData as batches for one model; works without a Trainer too.

    Parameters
    ----------
    path
        One file, glob, prepared store or AnnData, or a list of them.
    input_spec
        What the model eats: ``model.input_spec``.
    stream
        Leave the counts of files on disk and read them as they are needed. ``"auto"``: where they would take more than
        half of the machine's memory. A first pass counts the genes of each cell.
    skip_damaged
        Leave out the cells of damaged shards of a store instead of refusing it; all of it is read to find them.
    weights
        Share of an epoch's cells for each of the paths, in any unit. An epoch has as many cells as there are to train
        on; a path goes on where the last epoch stopped in it. None uses each cell once.
    val_fraction
        Share of the cells held out for validation.
    split_by
        What is held out: single cells (``"cell"``), whole files (``"dataset"``), or all cells with one value in a
        column of ``obs``, such as a donor.
    val_groups
        Which files or values are held out; None draws them.
    mask_fraction, hidden_share, random_share, zero_fraction
        What is hidden and what the loss asks for, see :class:`~cellfm_torch.batch.Masking`; None: as the model was
        pretrained.
    target_depth
        Read depth T that the model is told outside of training, such as ``"t4"``: see
        :class:`~cellfm_torch.read_depth.TargetDepth`; None: as the model has it.
    totals
        Column of ``obs`` with each cell's counts (S), for values whose counts are lost (``counts="normalised"``).
    downsample
        Lower the read depth of half of the cells in the input; by default where the model reads depths.
    token_budget
        Most gene tokens per batch (and device), or ``"auto"``: see
        :class:`~cellfm_torch.data.budget.TokenBudgetDataModule`.
    block_size, fetch_cells
        Cells of a store or streamed file that stay together up to a fetch, and cells of a fetch, which are shuffled.
    label
        Column of ``obs`` with the class of each cell; None for no labels.
    num_workers
        Threads that make batches ahead.
    seed
        Of split, order, masks, samples and downsampling.
    verbose
        Print a report of the cells and genes when they are read.
    reading
        How files are read and which cells are kept: fields of :class:`~cellfm_torch.data.options.ReadOptions`.

    Attributes
    ----------
    predict_rows : (r,) int or None
        Rows of the cells to predict, ascending; may be set. None: all that have counts.

    Raises
    ------
    UserError
        If an option is out of its range.
    """

    def __init__(
        self,
        path: Given | Iterable[Given],
        *,
        input_spec: InputSpec,
        stream: Stream = "auto",
        skip_damaged: bool = False,
        weights: Sequence[float] | None = None,
        val_fraction: float = 0.2,
        split_by: str = "cell",
        val_groups: Sequence[str] | None = None,
        mask_fraction: float | None = None,
        hidden_share: float | None = None,
        random_share: float | None = None,
        zero_fraction: float | None = None,
        target_depth: str | None = None,
        totals: str | None = None,
        downsample: bool | None = None,
        token_budget: int | Literal["auto"] = 16384,
        block_size: int = 64,
        fetch_cells: int = 16384,
        label: str | None = None,
        num_workers: int = 0,
        seed: int = 0,
        verbose: bool = True,
        **reading: Any,
    ) -> None:
        super().__init__(token_budget)
        shares = {
            "fraction": mask_fraction,
            "hidden_share": hidden_share,
            "random_share": random_share,
            "zero_fraction": zero_fraction,
        }
        self.masking = choose_masking(input_spec, shares)
        self.target_depth = choose_target_depth(input_spec, target_depth)
        if not 0 < val_fraction < 1:
            raise UserError(f"data.val_fraction={val_fraction}: must be between 0 and 1")
        least = {"block_size": (block_size, 1), "fetch_cells": (fetch_cells, 1), "num_workers": (num_workers, 0)}
        for name, (number, bound) in (least | {"seed": (seed, 0)}).items():
            if number < bound:
                raise UserError(f"data.{name}={number}: must be at least {bound}")
        if reading.get("most_counts") is None:
            reading["most_counts"] = input_spec.most_counts
        read = ReadOptions(**reading)
        if stream not in (True, False, "auto"):
            raise UserError(f"data.stream={stream}: choose true, false or auto")
        if weights is not None:
            number = len(path := as_list(path))
            if len(weights) != number or min(weights) <= 0:
                raise UserError(
                    f"data.weights={list(weights)}: give one number above 0 for each of the {number} in data.path"
                )
        if input_spec.genes is None:
            raise UserError("the model does not know which genes its rows stand for: give it a genes.txt in its folder")
        self.input_spec = input_spec
        self.vocab = GeneVocab(input_spec.genes, first_id=input_spec.first_id)
        self._open = functools.partial(
            collect,
            path,
            self.vocab,
            open_files=functools.partial(open_files, vocab=self.vocab, stream=stream, block_size=block_size, **reading),
            min_genes=read.min_genes,
            max_genes=read.max_genes,
            most_counts=read.limit,
            skip_damaged=skip_damaged,
            block_size=block_size,
            separate=weights is not None,
        )
        self.weights = weights
        self.split_by = split_by
        self.val_groups = val_groups
        self.fetch_cells = fetch_cells
        self.val_fraction = val_fraction
        self.totals = totals
        self.downsample = choose_downsample(input_spec, downsample, read, totals=totals)
        self.label = label
        self.num_workers = num_workers
        self.seed = seed
        self.verbose = verbose
        self.predict_rows: NDArray[np.int64] | None = None

    @property
    def least_token_budget(self) -> int:
        """Twice the longest cell, its targets among unexpressed genes included."""
        return 2 * int(self._loader().sampler.lengths.max())

    def setup(self, stage: str | None = None) -> None:
        """Read the files and split the cells, once; every wrong option is found here, before anything is written."""
        if stage == "predict":
            self.predict_dataloader()
        else:
            self.train_dataloader()
            self.val_dataloader()

    def _loader(
        self, rows: NDArray[np.int64] | None = None, *, shuffle: bool = False, targets: bool = True
    ) -> CellLoader:
        """Return a loader of some rows, by default all."""
        dataset = CellDataset(
            self.table,
            self.input_spec,
            rows=rows,
            masking=self.masking if targets else None,
            target_depth=self.target_depth,
            totals=self._totals,
            downsample=self.downsample and targets,
            seed=self.seed,
            fixed=not shuffle,
            labels=None if self._classes is None else self._classes.codes.astype(np.int64),
        )
        lengths, blocks = dataset.lengths, dataset.blocks
        budget = self.token_budget or 4 * int(lengths.max())  # open: something small
        if shuffle and rows is not None:
            order = shuffled_order(
                blocks,
                int(lengths.sum(dtype=np.int64)),
                parts=np.searchsorted(rows, self.collection.starts),
                weights=self.weights,
                fetch_cells=self.fetch_cells,
                token_budget=budget,
                seed=self.seed,
            )
        else:
            order = plain_order(blocks, fetch_cells=self.fetch_cells)
        sampler = TokenBudgetSampler(
            lengths,
            token_budget=budget,
            order=order,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
            accumulate=self.trainer.accumulate_grad_batches if self.trainer and shuffle else 1,
        )
        return CellLoader(dataset, sampler=sampler, num_workers=self.num_workers)

    def train_dataloader(self) -> CellLoader:
        """Return the training cells, in a new order and with new masks each epoch."""
        return self.in_place(self._loader(self.train_cells, shuffle=True))

    def val_dataloader(self) -> CellLoader:
        """Return the held-out cells in file order, with the same masks every time."""
        return self._loader(self.val_cells)

    test_dataloader = val_dataloader

    def held_out_dataloader(self) -> CellLoader:
        """Return the held-out cells as they are, for pictures: nothing hidden, nothing downsampled, no targets."""
        return self._loader(self.val_cells, targets=False)

    def predict_dataloader(self) -> CellLoader:
        """Return cells in file order, as they are: nothing hidden, no targets. See `predict_rows`."""
        rows, there = self.predict_rows, self.table.lengths > 0
        if rows is None and not there.all():
            rows = np.flatnonzero(there)
        return self._loader(rows, targets=False)
