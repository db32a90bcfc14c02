"""Small networks and batches with everything at work: hidden genes, empty cells, gains that are not one."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from cellfm_torch import CellBatch, CellFM, CellFMConfig

GENES = 200


def network_of(*, dtype: torch.dtype = torch.float32, num_layers: int = 4, **variant: bool) -> CellFM:
    torch.manual_seed(0)
    network = CellFM(CellFMConfig(num_layers=num_layers, dim=64, num_heads=2, num_genes=GENES, **variant))
    with torch.no_grad():  # gains, offsets and `a` start where they hide mistakes
        for name, p in network.named_parameters():
            if "norm" in name or name.endswith(("bias", ".a")):
                p.add_(0.2 * torch.randn_like(p))
    return network.to(dtype).eval()


def batch_of(lengths: list[int], *, seed: int = 0, read_depth: bool = False, zeros: bool = False) -> CellBatch:
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    ids = [torch.randperm(GENES, generator=generator)[:n] + 1 for n in lengths]
    values = torch.rand(total, generator=generator, dtype=torch.float64) * 6 + 0.1
    if zeros:
        values = values.masked_fill(torch.rand(total, generator=generator) < 0.4, 0)
    hidden = torch.rand(total, generator=generator) < 0.25
    depth = torch.rand(len(lengths), 2, generator=generator, dtype=torch.float64) * 2e4 + 1e3
    return CellBatch(
        gene_ids=torch.cat([*ids, torch.zeros(0, dtype=torch.int64)]),
        values=values.masked_fill(hidden, float("nan")),  # a hidden value is never read
        hidden=hidden,
        offsets=torch.tensor([0, *lengths]).cumsum(0),
        cell_index=torch.arange(len(lengths)),
        target=hidden,
        target_values=values,
        read_depth=depth if read_depth else None,
    )


def take(batch: CellBatch, cells: list[int], orders: list[Tensor] | None = None) -> tuple[CellBatch, Tensor]:
    """Return the batch of these cells, its genes reordered within each, and the rows they came from."""
    rows = [torch.arange(int(batch.offsets[c]), int(batch.offsets[c + 1])) for c in cells]
    if orders is not None:
        rows = [row[order] for row, order in zip(rows, orders, strict=True)]
    picked = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64)
    per_gene = ("gene_ids", "values", "hidden", "target", "target_values")
    changed = {name: getattr(batch, name)[picked] for name in per_gene}
    changed["offsets"] = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    changed["cell_index"] = batch.cell_index[cells]
    changed["read_depth"] = None if batch.read_depth is None else batch.read_depth[cells]
    return dataclasses.replace(batch, **changed), picked
