"""Cells to batches: fetch, downsample, sample, normalise and mask, reproducibly and for many cells at once.

Shapes: B cells and N gene tokens of a batch, C cells of the data set, n cells of its table, G genes of the vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cellfm_torch.batch import CellBatch, InputSpec
from cellfm_torch.data import compiled, transforms
from cellfm_torch.data.table import CellTable, Rows

CHANGING_STREAM, FIXED_STREAM = 5, 6
"""First words of the keys of the cells' randomness (see :data:`cellfm_torch.data.order.ORDER_STREAM`)."""


class Fetched(NamedTuple):
    """Cells read together, and where in them each cell asked for is."""

    rows: Rows
    where: NDArray[np.int64]  # (B,)


class CellDataset:
    """Batches of cells as a model eats them.

    What a cell looks like depends on the seed, its row and how often it was used before, not on its batch mates, the
    size of batches, or the number of processes.

    Parameters
    ----------
    table
        Counts over the model's vocabulary.
    spec
        What the model eats.
    rows : (C,) int, optional
        Which of the cells, ascending; all by default.
    mask_fraction
        Share of a cell's genes that the loss asks for; None for no targets and nothing hidden.
    hidden_share
        Share of these whose value is hidden; the others stay visible.
    downsample
        Lower the read depth of half of the cells in the input; the target keeps it.
    seed
        Of everything drawn.
    fixed
        Draw the same for a cell each time. For evaluation.
    labels : (n,) int64, optional
        Class of each cell of the table.

    Raises
    ------
    ValueError
        If the model asks for an unknown transform of the values.
    """

    def __init__(
        self,
        table: CellTable,
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
        self.table = table
        self.spec = spec
        self.rows = rows
        self.mask_fraction = mask_fraction
        self.hidden_share = hidden_share
        self.downsample = downsample
        self.seed = seed
        self.fixed = fixed
        self.labels = labels
        self.max_genes = min(spec.max_genes or table.num_genes, table.num_genes)

    def __len__(self) -> int:
        return len(self.table if self.rows is None else self.rows)

    @property
    def lengths(self) -> NDArray[np.integer]:
        """Gene tokens of each cell of the data set, (C,)."""
        if not self.spec.expressed_only:
            return np.full(len(self), self.max_genes, dtype=np.int32)
        lengths = self.table.lengths if self.rows is None else self.table.lengths[self.rows]
        return np.minimum(lengths, self.max_genes)

    @property
    def blocks(self) -> NDArray[np.int64]:
        """Borders of the runs of cells that are read together most cheaply, (K + 1,) positions in the data set."""
        if self.rows is None:
            return self.table.blocks
        return np.unique(np.searchsorted(self.rows, self.table.blocks))

    def fetch(self, cells: NDArray[np.int64]) -> Fetched:
        """Read cells (B,), positions in the data set in any order, the same one more than once if need be."""
        rows, where = np.unique(cells if self.rows is None else self.rows[cells], return_inverse=True)
        return Fetched(self.table.read(rows.astype(np.int64, copy=False)), where)

    def batch(
        self, cells: NDArray[np.int64], passes: NDArray[np.int64] | int = 0, *, fetched: Fetched | None = None
    ) -> CellBatch:
        """Make a batch, on the CPU.

        Parameters
        ----------
        cells : (B,)
            Positions in the data set.
        passes : (B,) or int
            How often each cell was used before.
        fetched
            The same cells, where they have been read already.
        """
        rows = np.asarray(cells if self.rows is None else self.rows[cells], dtype=np.int64)
        stored, where = self.fetch(cells) if fetched is None else fetched
        if self.fixed:
            keys = transforms.cell_keys(rows, FIXED_STREAM, self.seed)
        else:
            keys = transforms.cell_keys(rows, CHANGING_STREAM, self.seed, passes)
        return self._make(rows, compiled.gather_rows(where, *stored), keys)

    def _make(
        self,
        rows: NDArray[np.int64],
        cells: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]],
        keys: compiled.Keys,
    ) -> CellBatch:
        offsets, genes, counts = cells
        # Depths are of the whole cell, before some of its genes are sampled.
        depth = transforms.sum_by_cell(offsets, counts)
        seen = transforms.downsample(offsets, counts, keys=keys) if self.downsample else counts
        seen_depth = transforms.sum_by_cell(offsets, seen) if self.downsample else depth

        if np.diff(offsets).max(initial=0) > self.max_genes:
            offsets, kept = transforms.sample_genes(offsets, seen, self.max_genes, keys=keys)
            genes, counts, seen = genes[kept], counts[kept], seen[kept]
        if not self.spec.expressed_only:
            offsets, genes, source = transforms.fill_unexpressed(
                offsets, genes, max_genes=self.max_genes, num_genes=self.table.num_genes, keys=keys
            )
            counts, seen = np.where(source < 0, 0, counts[source]), np.where(source < 0, 0, seen[source])

        values = transforms.normalise(offsets, seen, seen_depth)
        hidden = np.zeros(len(genes), dtype=bool)
        target = target_values = None
        if self.mask_fraction is not None:
            target, hidden = transforms.choose_targets(
                offsets, fraction=self.mask_fraction, hidden_share=self.hidden_share, keys=keys
            )
            target_values = transforms.normalise(offsets, counts, depth) if self.downsample else values
            values = np.where(hidden, np.float32(0), values)
        read_depth = np.stack([seen_depth, depth], axis=1).astype(np.float32) if self.spec.read_depth else None
        return CellBatch(
            gene_ids=torch.from_numpy(np.add(genes, self.spec.first_id, dtype=np.int64)),
            values=torch.from_numpy(values),
            hidden=torch.from_numpy(hidden),
            offsets=torch.from_numpy(offsets),
            cell_index=torch.from_numpy(rows),
            target=None if target is None else torch.from_numpy(target),
            target_values=None if target_values is None else torch.from_numpy(target_values),
            read_depth=None if read_depth is None else torch.from_numpy(read_depth),
            labels=None if self.labels is None else torch.from_numpy(self.labels[rows]),
        )
