"""Cells to batches: fetch, downsample, sample, normalise and mask, reproducibly and for many cells at once.

Shapes: B cells and N gene tokens of a batch, C cells of the data set, n cells of its table, G genes of the vocabulary.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cellfm_torch.batch import CellBatch, InputSpec, Masking
from cellfm_torch.data import compiled, transforms
from cellfm_torch.data.masking import choose, counts_of, num_zeros
from cellfm_torch.data.table import CellTable, Rows
from cellfm_torch.read_depth import TargetDepth

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
    masking
        What is hidden and what the loss asks for; None for no targets and nothing hidden. Default: ``spec.masking``.
    target_depth
        Rule for T where nothing is hidden; None: T is S.
    totals : (n,) float64, optional
        S of each cell of the table, in counts; by default the sum of its counts.
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
        masking: Masking | Literal["spec"] | None = "spec",
        target_depth: TargetDepth | None = None,
        totals: NDArray[np.float64] | None = None,
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
        self.masking = spec.masking if masking == "spec" else masking
        self.target_depth = target_depth
        self.totals = totals
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
        lengths = np.minimum(self.table.lengths if self.rows is None else self.table.lengths[self.rows], self.max_genes)
        if self.masking is None or not self.masking.zero_fraction:
            return lengths
        return lengths + num_zeros(lengths, self.masking, num_genes=self.table.num_genes)

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
        stored = offsets, genes, counts = cells
        masking, num_genes = self.masking, self.table.num_genes
        # Depths are of the whole cell, before some of its genes are sampled.
        depth = seen_depth = transforms.sum_by_cell(offsets, counts)
        seen: transforms.Ints = counts
        if self.downsample:
            rule = masking or self.spec.masking
            seen = transforms.downsample(
                offsets, counts, least_total=rule.least_total, keep_expressed=rule.keep_expressed, keys=keys
            )
            seen_depth = transforms.sum_by_cell(offsets, seen)
            if not rule.keep_expressed:
                kept = np.flatnonzero(seen)
                offsets = np.searchsorted(kept, offsets)
                genes, counts, seen = genes[kept], counts[kept], seen[kept]

        if np.diff(offsets).max(initial=0) > self.max_genes:
            offsets, kept = transforms.sample_genes(offsets, seen, self.max_genes, keys=keys)
            genes, counts, seen = genes[kept], counts[kept], seen[kept]
        expressed = np.diff(offsets)
        wanted: int | NDArray[np.int64] = 0 if self.spec.expressed_only else self.max_genes
        if masking is not None and masking.zero_fraction:
            wanted = np.maximum(wanted, expressed + num_zeros(expressed, masking, num_genes=num_genes))
        if np.any(wanted):
            offsets, genes, source = transforms.fill_unexpressed(
                offsets, genes, max_genes=wanted, num_genes=num_genes, keys=keys
            )
            seen = np.where(source < 0, 0, seen[source]).astype(np.int32)
            counts = counts_of(
                offsets, genes, *stored, num_genes
            )  # some of these may have vanished from the input only

        values = transforms.normalise(offsets, seen, seen_depth)
        hidden = np.zeros(len(genes), dtype=bool)
        target = target_values = None
        if masking is not None:
            target_values = transforms.normalise(offsets, counts, depth) if self.downsample else values
            if masking.zero_fraction or masking.random_share:
                target, hidden, values = choose(offsets, expressed, values, masking, keys=keys)
            else:
                target, hidden = transforms.choose_targets(
                    offsets, fraction=masking.fraction, hidden_share=masking.hidden_share, keys=keys
                )
            values = np.where(hidden, np.float32(0), values)
        read_depth = self._read_depth(rows, seen_depth, depth) if self.spec.read_depth else None
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

    def _read_depth(
        self, rows: NDArray[np.int64], seen_depth: NDArray[np.float64], depth: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Return S and T in counts, (B, 2)."""
        if self.totals is not None:
            seen_depth = depth = self.totals[rows]
        if self.masking is None and self.target_depth is not None:
            depth = self.target_depth.totals(depth)
        return np.stack([seen_depth, depth], axis=1).astype(np.float32)
