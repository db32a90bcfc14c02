"""CellDataModule: files of cells in, batches for training, validation and prediction out.

Shapes: n cells kept, G genes of the vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import pandas as pd
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from cellfm_torch.batch import InputSpec
from cellfm_torch.data import transforms
from cellfm_torch.data.budget import TokenBudgetDataModule
from cellfm_torch.data.dataset import CellDataset, CellLoader
from cellfm_torch.data.files import PathLike
from cellfm_torch.data.genes import GeneVocab
from cellfm_torch.data.reader import Cells, CountsKind, DuplicatesRule, read_cells
from cellfm_torch.data.report import print_report
from cellfm_torch.data.sampler import TokenBudgetSampler
from cellfm_torch.errors import UserError, nearest

SPLIT_STREAM = 4
"""First word of the seed of the split (see ORDER_STREAM)."""


class CellDataModule(TokenBudgetDataModule):
    """Cells of h5ad files as batches for one model; works without a Trainer too.

    Parameters
    ----------
    path
        One file, one glob, or a list of them.
    input_spec
        What the model eats: ``model.input_spec``.
    layer
        Matrix that holds the counts: None for ``X``, ``"raw"`` for ``raw.X``, else a name in ``layers``.
    gene_column
        Column of ``var`` with gene symbols or Ensembl ids; None for ``var_names``.
    counts
        ``"raw"``, or ``"recover"`` for log-normalised values.
    duplicates
        Several genes of one symbol: add them up (``"sum"``) or take the first (``"unique"``).
    min_genes, max_genes
        Cells with fewer or more expressed genes of the vocabulary are dropped; None for no upper limit.
    val_fraction
        Share of the cells held out for validation.
    mask_fraction
        Share of a cell's genes that the loss asks for.
    hidden_share
        Share of these whose value is hidden.
    downsample
        Lower the read depth of half of the cells in the input; by default where the model reads depths.
    token_budget
        Most gene tokens per batch (and device), or ``"auto"``; see :class:`TokenBudgetDataModule`.
    label
        Column of ``obs`` with the class of each cell; None for no labels.
    num_workers
        Processes that make batches ahead.
    seed
        Of split, order, masks, samples and downsampling.

    Raises
    ------
    UserError
        If an option is out of its range.
    """

    def __init__(
        self,
        path: PathLike | Iterable[PathLike],
        *,
        input_spec: InputSpec,
        layer: str | None = None,
        gene_column: str | None = None,
        counts: CountsKind = "raw",
        duplicates: DuplicatesRule = "sum",
        min_genes: int = 200,
        max_genes: int | None = None,
        val_fraction: float = 0.2,
        mask_fraction: float = 0.2,
        hidden_share: float = 0.8,
        downsample: bool | None = None,
        token_budget: int | Literal["auto"] = 16384,
        label: str | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(token_budget)
        for name, share in {"mask_fraction": mask_fraction, "hidden_share": hidden_share}.items():
            if not 0 < share <= 1:
                raise UserError(f"data.{name}={share}: must be above 0 and at most 1")
        if not 0 < val_fraction < 1:
            raise UserError(f"data.val_fraction={val_fraction}: must be between 0 and 1")
        least = {"min_genes": (min_genes, 0), "num_workers": (num_workers, 0)}
        for name, (number, bound) in (least | {"seed": (seed, 0)}).items():
            if number < bound:
                raise UserError(f"data.{name}={number}: must be at least {bound}")
        if max_genes is not None and max_genes < max(min_genes, 1):
            raise UserError(f"data.max_genes={max_genes}: must be at least data.min_genes={min_genes}, or null")
        for name, word, kind in (("counts", counts, CountsKind), ("duplicates", duplicates, DuplicatesRule)):
            if word not in (choices := get_args(kind)):
                raise UserError(f"data.{name}={word}: choose {' or '.join(choices)}{nearest(word, choices)}")
        if input_spec.genes is None:
            raise UserError("the model does not know which genes its rows stand for: give it a genes.txt in its folder")
        self.input_spec = input_spec
        self.vocab = GeneVocab(input_spec.genes, first_id=input_spec.first_id)
        self._read = functools.partial(
            read_cells,
            path,
            self.vocab,
            layer=layer,
            gene_column=gene_column,
            counts=counts,
            duplicates=duplicates,
            min_genes=min_genes,
            max_genes=max_genes,
        )
        self.val_fraction = val_fraction
        self.mask_fraction = mask_fraction
        self.hidden_share = hidden_share
        self.downsample = input_spec.read_depth if downsample is None else downsample
        self.label = label
        self.num_workers = num_workers
        self.seed = seed

    @cached_property
    def cells(self) -> Cells:
        """The cells kept of all files; read on first use, then a report is printed."""
        cells = self._read()
        rank_zero_only(print_report)(cells.reports)
        return cells

    def read(self) -> Cells:
        """Return the cells kept of all files, in file order."""
        return self.cells

    @property
    def obs(self) -> pd.DataFrame:
        """Annotations of the cells kept, n rows."""
        return self.cells.obs

    @cached_property
    def _classes(self) -> pd.Categorical | None:
        if self.label is None:
            return None
        if self.label not in self.obs:
            there = [str(name) for name in self.obs.columns]
            hint = nearest(self.label, there)
            raise UserError(f"data.label={self.label}: no such column in obs (it has {', '.join(there)}){hint}")
        return pd.Categorical(self.obs[self.label]).remove_unused_categories()

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes; a batch's labels index them, -1 for a cell without one."""
        return () if self._classes is None else tuple(str(name) for name in self._classes.categories)

    @cached_property
    def _split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the training and of the validation cells, both ascending."""
        total = len(self.cells)
        held_out = round(self.val_fraction * total)
        if not 0 < held_out < total:
            raise UserError(
                f"data.val_fraction={self.val_fraction} of {total:,} cells leaves {total - held_out:,} to train on and "
                f"{held_out:,} to validate on: change it, or give more cells"
            )
        order = np.random.default_rng([SPLIT_STREAM, self.seed]).permutation(total)
        return np.sort(order[held_out:]), np.sort(order[:held_out])

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
        """Mean value (log1p CP10k) of each gene over the training cells: the baseline predictor.

        Indexed by gene id, (first_id + G,). Over the cells that express the gene; where the model reads unexpressed
        genes too, over all cells. Genes no training cell expresses get the mean over all genes and cells.
        """
        counts, depth = self.cells.counts[self.train_cells], self.cells.read_depth[self.train_cells]
        values = transforms.normalise(counts.indptr, counts.data, depth).astype(np.float64)
        sums = np.bincount(counts.indices, weights=values, minlength=len(self.vocab))
        if self.input_spec.expressed_only:
            number = np.bincount(counts.indices, minlength=len(self.vocab))
        else:
            number = np.full(len(self.vocab), counts.shape[0])
        means = np.full(self.vocab.first_id + len(self.vocab), sums.sum() / number.sum(), dtype=np.float32)
        means[self.vocab.first_id :][number > 0] = sums[number > 0] / number[number > 0]
        return means

    @property
    def least_token_budget(self) -> int:
        """Twice the longest cell."""
        return 2 * int(self.predict_dataloader().sampler.lengths.max())

    def setup(self, stage: str | None = None) -> None:
        """Read the files and split the cells, once; every wrong option is found here, before anything is written."""
        if stage == "predict":
            self.predict_dataloader()
        else:
            self.train_dataloader()
            self.val_dataloader()

    def _loader(self, rows: NDArray[np.int64], *, shuffle: bool = False, targets: bool = True) -> CellLoader:
        dataset = CellDataset(
            self.cells,
            self.input_spec,
            rows=rows,
            mask_fraction=self.mask_fraction if targets else None,
            hidden_share=self.hidden_share,
            downsample=self.downsample and targets,
            seed=self.seed,
            fixed=not shuffle,
            labels=None if self._classes is None else self._classes.codes.astype(np.int64),
        )
        sampler = TokenBudgetSampler(
            dataset.lengths,
            token_budget=self.token_budget or 4 * int(dataset.lengths.max()),  # open: something small
            seed=self.seed,
            shuffle=shuffle,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )
        return CellLoader(dataset, sampler=sampler, num_workers=self.num_workers)

    def train_dataloader(self) -> CellLoader:
        """Return the training cells, in a new order and with new masks each epoch."""
        return self._loader(self.train_cells, shuffle=True)

    def val_dataloader(self) -> CellLoader:
        """Return the held-out cells in file order, with the same masks every time."""
        return self._loader(self.val_cells)

    test_dataloader = val_dataloader

    def held_out_dataloader(self) -> CellLoader:
        """Return the held-out cells as they are, for pictures: nothing hidden, nothing downsampled, no targets."""
        return self._loader(self.val_cells, targets=False)

    def predict_dataloader(self) -> CellLoader:
        """Return all cells kept, in file order, as they are: nothing hidden, nothing downsampled, no targets."""
        return self._loader(np.arange(len(self.cells)), targets=False)
