"""The one contract between data and model: a batch of cells laid end to end, without padding.

Shapes: B cells, N genes of all cells together, L genes of the longest cell (padded form only).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cellfm_torch.input_spec import InputSpec, Masking

__all__ = ["CellBatch", "InputSpec", "Masking", "StepShare"]


@dataclass(frozen=True)
class StepShare:
    """What a batch is of its optimiser step, within one process.

    Attributes
    ----------
    weight : int
        Of this batch, see :attr:`CellBatch.weight`.
    of_step : int
        Sum over the batches of this process in the step.
    batches, processes : int
        How many batches a whole step has in each process, and how many processes there are.
    """

    weight: int
    of_step: int
    batches: int = 1
    processes: int = 1


@dataclass
class CellBatch:
    """Cells laid end to end: cell ``b`` owns genes ``offsets[b]:offsets[b + 1]``.

    The order of genes inside a cell carries no meaning. Prefix tokens (cls, read depth) are the model's own
    business and do not appear here.

    Attributes
    ----------
    gene_ids : (N,) int64
        Rows of the model's gene embedding.
    values : (N,) float
        Normalised expression, log1p(count / read depth * 1e4) for CellFM. Never read where `hidden`.
    hidden : (N,) bool
        The value is masked out.
    offsets : (B + 1,) int64
        Cell boundaries; ``offsets[0] == 0`` and ``offsets[-1] == N``.
    cell_index : (B,) int64
        Row of each cell in its source.
    target, target_values : (N,) bool, (N,) float, or None
        Which genes the loss asks for, and their true values.
    read_depth : (B, 2) float or None
        Raw totals (counts) of the input (S) and of the target (T).
    labels : (B,) int64 or None
        Class of each cell, for tasks that need one.
    extras : dict of str to Tensor
        Per-cell or per-gene tensors a task adds, by name.
    padded_mask : (B, L) bool or None
        Where the genes stood in the padded tensors this batch came from (see :meth:`from_padded`).
    share : StepShare or None
        What it is of its optimiser step; None for a batch by itself.
    """

    gene_ids: Tensor
    values: Tensor
    hidden: Tensor
    offsets: Tensor
    cell_index: Tensor
    target: Tensor | None = None
    target_values: Tensor | None = None
    read_depth: Tensor | None = None
    labels: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)
    padded_mask: Tensor | None = None
    share: StepShare | None = None

    @property
    def num_cells(self) -> int:
        """B, the number of cells."""
        return self.offsets.numel() - 1

    @property
    def num_genes(self) -> int:
        """N, the number of gene tokens of all cells together."""
        return self.gene_ids.numel()

    @property
    def lengths(self) -> Tensor:
        """Genes per cell, (B,) int64."""
        return self.offsets.diff()

    @property
    def cell_of_gene(self) -> Tensor:
        """The cell each gene token belongs to, (N,) int64."""
        cells = torch.arange(self.num_cells, device=self.offsets.device)
        return torch.repeat_interleave(cells, self.lengths, output_size=self.num_genes)

    @property
    def weight(self) -> int:
        """How many things a loss is a mean over: target genes, or labelled cells, or cells."""
        if self.target is not None:
            return int(self.target.sum())
        return self.num_cells if self.labels is None else int((self.labels >= 0).sum())

    def __len__(self) -> int:
        return self.num_cells

    def token_rows(self, cells: Tensor) -> Tensor:
        """Return the rows of the gene tokens of some cells, cell after cell in the order asked for.

        Parameters
        ----------
        cells : (b,) int64
            Which; one may be there twice.
        """
        lengths = self.lengths[cells]
        ends = lengths.cumsum(0)
        total = int(ends[-1]) if len(ends) else 0
        shift = self.offsets[cells] - (ends - lengths)
        return torch.arange(total, device=self.offsets.device) + shift.repeat_interleave(lengths, output_size=total)

    def take(self, cells: Tensor) -> CellBatch:
        """Return some cells as a batch, in the order asked for; see :meth:`token_rows`."""
        rows, lengths = self.token_rows(cells), self.lengths[cells]
        per_cell = {"cell_index", "read_depth", "labels", "padded_mask"}
        taken: dict[str, object] = {}
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Tensor) and entry.name != "offsets":
                taken[entry.name] = value[cells if entry.name in per_cell else rows]
        # An extra is of cells or of genes; where both are as many, it is of cells, which come first.
        extras = {name: x[cells if len(x) == self.num_cells else rows] for name, x in self.extras.items()}
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return dataclasses.replace(self, **taken, offsets=offsets, extras=extras, share=None)  # type: ignore[arg-type]

    def _map(self, change: Callable[[Tensor], Tensor]) -> CellBatch:
        changed: dict[str, object] = {"extras": {name: change(x) for name, x in self.extras.items()}}
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Tensor):
                changed[entry.name] = change(value)
        return dataclasses.replace(self, **changed)  # type: ignore[arg-type]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> CellBatch:
        """Return the batch on another device; dtypes stay as they are."""
        return self._map(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> CellBatch:
        """Return the batch in page-locked memory, for asynchronous copies to a GPU."""
        return self._map(lambda x: x.pin_memory())

    @classmethod
    def from_padded(
        cls,
        gene_ids: Tensor,
        values: Tensor,
        *,
        valid: Tensor,
        hidden: Tensor | None = None,
        target: Tensor | None = None,
        target_values: Tensor | None = None,
        read_depth: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> CellBatch:
        """Build a batch from padded tensors, the layout other implementations use.

        Parameters
        ----------
        gene_ids, values, hidden, target, target_values : (B, L)
            As the attributes of the same names.
        valid : (B, L) bool
            True for real genes; everything else is padding and is dropped.
        read_depth : (B, 2), optional
        labels : (B,), optional

        Raises
        ------
        ValueError
            If a tensor's shape is not that of `gene_ids`, or not one row per cell.
        """
        per_gene = {
            "values": values,
            "valid": valid,
            "hidden": hidden,
            "target": target,
            "target_values": target_values,
        }
        for name, x in per_gene.items():
            if x is not None and x.shape != gene_ids.shape:
                raise ValueError(f"{name} has shape {tuple(x.shape)}, gene_ids {tuple(gene_ids.shape)}")
        if gene_ids.ndim != 2:
            raise ValueError(f"gene_ids has shape {tuple(gene_ids.shape)}; it must be (cells, genes)")
        per_cell = {"read_depth": (read_depth, (len(gene_ids), 2)), "labels": (labels, (len(gene_ids),))}
        for name, (y, shape) in per_cell.items():
            if y is not None and y.shape != shape:
                raise ValueError(f"{name} has shape {tuple(y.shape)}, it must be {shape}")
        valid = valid.bool()
        lengths = valid.sum(1)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return cls(
            gene_ids=gene_ids[valid].long(),
            values=values[valid],
            hidden=torch.zeros_like(valid)[valid] if hidden is None else hidden.bool()[valid],
            offsets=offsets,
            cell_index=torch.arange(len(gene_ids), device=gene_ids.device),
            target=None if target is None else target.bool()[valid],
            target_values=None if target_values is None else target_values[valid],
            read_depth=read_depth,
            labels=labels,
            padded_mask=valid,
        )

    def to_padded(self, x: Tensor) -> Tensor:
        """Lay a per-gene tensor (N, ...) out as (B, L, ...), zeros elsewhere.

        Genes return to the places they had in :meth:`from_padded`; a batch that was never padded is aligned left
        with L the longest cell.

        Raises
        ------
        ValueError
            If `x` does not have one row per gene.
        """
        if len(x) != self.num_genes:
            raise ValueError(f"x has {len(x)} rows, the batch {self.num_genes} genes")
        mask = self.padded_mask
        if mask is None:
            longest = int(self.lengths.max()) if self.num_cells else 0
            mask = torch.arange(longest, device=x.device) < self.lengths[:, None]
        padded = x.new_zeros(*mask.shape, *x.shape[1:])
        padded[mask] = x
        return padded
