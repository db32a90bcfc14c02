"""Cells to batches: fetch, downsample, sample, normalise and mask, reproducibly and for a whole batch at once.

Shapes: B cells and N gene tokens of a batch, C cells of the data set, n cells read, G genes of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from cellfm_torch.batch import CellBatch, InputSpec
from cellfm_torch.data import transforms
from cellfm_torch.data.reader import Cells
from cellfm_torch.data.sampler import BatchPlan, TokenBudgetSampler

BATCH_STREAM, CELL_STREAM = 2, 3
"""First words of the seeds of a batch's and a cell's randomness (see ORDER_STREAM)."""


class _Drawn(NamedTuple):
    """Arrays of some cells; those of several draws are joined field by field."""

    lengths: NDArray[np.integer]  # (B,)
    genes: NDArray[np.integer]  # (N,) vocabulary positions
    values: NDArray[np.float32]  # (N,)
    target_values: NDArray[np.float32]  # (N,)
    target: NDArray[np.bool_]  # (N,)
    hidden: NDArray[np.bool_]  # (N,)
    read_depth: NDArray[np.float32]  # (B, 2)


class CellDataset(Dataset[CellBatch]):
    """Batches of cells as a model eats them; indexed by :class:`~cellfm_torch.data.sampler.BatchPlan`.

    Parameters
    ----------
    cells
        Counts over the model's vocabulary.
    spec
        What the model eats.
    rows : (C,) int, optional
        Which of the cells, in this order; all by default.
    mask_fraction
        Share of a cell's genes that the loss asks for; None for no targets and nothing hidden.
    hidden_share
        Share of these whose value is hidden; the others stay visible.
    downsample
        Lower the read depth of half of the cells in the input; the target keeps it.
    seed
        Of everything drawn. A batch is a function of seed, epoch and plan, whatever the number of workers.
    fixed
        Draw for each cell from its own generator, the same in every epoch: what a cell looks like then depends
        neither on its batch mates nor on the token budget. For evaluation; slower.
    labels : (n,) int64, optional
        Class of each of the cells read.

    Raises
    ------
    ValueError
        If the model asks for an unknown transform of the values.
    """

    def __init__(
        self,
        cells: Cells,
        spec: InputSpec,
        *,
        rows: NDArray[np.integer] | None = None,
        mask_fraction: float | None = 0.2,
        hidden_share: float = 0.8,
        downsample: bool = False,
        seed: int = 0,
        fixed: bool = False,
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        if spec.value_transform != "log1p_cp10k":
            raise ValueError(f"unknown value_transform {spec.value_transform!r}: 'log1p_cp10k' is the one there is")
        self.spec = spec
        self.rows = np.arange(len(cells)) if rows is None else np.asarray(rows, dtype=np.int64)
        self.mask_fraction = mask_fraction
        self.hidden_share = hidden_share
        self.downsample = downsample
        self.seed = seed
        self.fixed = fixed
        self.labels = labels
        self.num_genes = cells.counts.shape[1]
        self.max_genes = min(spec.max_genes or self.num_genes, self.num_genes)
        self._genes, self._counts = cells.counts.indices, cells.counts.data
        self._indptr = cells.counts.indptr.astype(np.int64)
        self._depth = cells.read_depth

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Gene tokens of each cell of the data set, (C,)."""
        if not self.spec.expressed_only:
            return np.full(len(self.rows), self.max_genes)
        return np.minimum(np.diff(self._indptr)[self.rows], self.max_genes)

    def __getitem__(self, plan: BatchPlan) -> CellBatch:
        """Make the batch of a plan, on the CPU."""
        rows = self.rows[plan.cells]
        if self.fixed:
            each = [self._draw(rows[i : i + 1], self._generator(CELL_STREAM, int(rows[i]))) for i in range(len(rows))]
            drawn = _Drawn(*(np.concatenate(parts) for parts in zip(*each, strict=True)))
        else:
            drawn = self._draw(rows, self._generator(BATCH_STREAM, plan.epoch, plan.index))
        masked = self.mask_fraction is not None
        return CellBatch(
            gene_ids=torch.from_numpy(drawn.genes.astype(np.int64) + self.spec.first_id),
            values=torch.from_numpy(np.where(drawn.hidden, np.float32(0), drawn.values)),
            hidden=torch.from_numpy(drawn.hidden),
            offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(drawn.lengths, dtype=np.int64)])),
            cell_index=torch.from_numpy(rows),
            target=torch.from_numpy(drawn.target) if masked else None,
            target_values=torch.from_numpy(drawn.target_values) if masked else None,
            read_depth=torch.from_numpy(drawn.read_depth) if self.spec.read_depth else None,
            labels=None if self.labels is None else torch.from_numpy(self.labels[rows]),
        )

    def _generator(self, *words: int) -> np.random.Generator:
        return np.random.default_rng([words[0], self.seed, *words[1:]])

    def _fetch(self, rows: NDArray[np.int64]) -> tuple[transforms.Ints, transforms.Ints, transforms.Ints]:
        """Return offsets (B + 1,), genes (N,) and counts (N,) of some cells."""
        starts = self._indptr[rows]
        lengths = self._indptr[rows + 1] - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        entries = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return offsets, self._genes[entries], self._counts[entries]

    def _draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> _Drawn:
        offsets, genes, counts = self._fetch(rows)
        seen = transforms.downsample(offsets, counts, rng=rng) if self.downsample else counts
        # Depths are of the whole cell, before some of its genes are sampled.
        depth = self._depth[rows]
        seen_depth = transforms.sum_by_cell(offsets, seen) if self.downsample else depth

        offsets, kept = transforms.sample_genes(offsets, seen, self.max_genes, rng=rng)
        genes, counts, seen = genes[kept], counts[kept], seen[kept]
        if not self.spec.expressed_only:
            offsets, genes, source = transforms.fill_unexpressed(
                offsets, genes, max_genes=self.max_genes, num_genes=self.num_genes, rng=rng
            )
            counts, seen = np.where(source < 0, 0, counts[source]), np.where(source < 0, 0, seen[source])

        values = transforms.normalise(offsets, seen, seen_depth)
        target_values = transforms.normalise(offsets, counts, depth) if self.downsample else values
        if self.mask_fraction is None:
            target = hidden = np.zeros(len(genes), dtype=bool)
        else:
            target, hidden = transforms.choose_targets(
                offsets, fraction=self.mask_fraction, hidden_share=self.hidden_share, rng=rng
            )
        read_depth = np.stack([seen_depth, depth], axis=1).astype(np.float32)
        return _Drawn(np.diff(offsets), genes, values, target_values, target, hidden, read_depth)


class CellLoader(DataLoader[CellBatch]):
    """Loader of whole batches that remembers how far an epoch has got (Lightning's stateful loader protocol).

    Parameters
    ----------
    dataset
        Makes batches from plans.
    sampler
        Plans them.
    options
        Others of DataLoader, such as ``num_workers``; Lightning passes some when it rebuilds a loader for prediction.
    """

    sampler: TokenBudgetSampler

    def __init__(self, dataset: CellDataset, *, sampler: TokenBudgetSampler, **options: Any) -> None:
        super().__init__(
            dataset,
            sampler=sampler,
            batch_size=None,
            pin_memory=torch.cuda.is_available(),
            # Iterating draws a worker seed; from a generator of its own it leaves the global state alone.
            generator=torch.Generator(),
            **options,
        )
        self._epoch, self._batches = sampler.epoch, 0

    def __iter__(self) -> Iterator[CellBatch]:  # type: ignore[override]
        """Yield the batches of the sampler's epoch; nothing happens before the first one is asked for.

        Lightning makes the iterator of the first epoch before it tells the sampler which epoch that is.
        """
        self._epoch, self._batches = self.sampler.epoch, self.sampler.start
        for batch in super().__iter__():
            self._batches += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, and how many of its batches were handed out."""
        epoch = self.sampler.epoch
        return {"epoch": epoch, "batches": self._batches if epoch == self._epoch else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the batches already handed out."""
        self._epoch, self._batches = state_dict["epoch"], state_dict["batches"]
        self.sampler.set_epoch(self._epoch)
        self.sampler.start = self._batches
