"""A small scFoundation and cells for it: hidden genes, listed genes that are not expressed, gains that are not one."""

from __future__ import annotations

import dataclasses

import torch
from synthetic import GENES, batch_of

from cellfm_torch import CellBatch, ScFoundation, ScFoundationConfig

SMALL = {"num_genes": GENES, "encoder_dim": 32, "decoder_dim": 16, "decoder_head_dim": 8, "num_bins": 12}
LENGTHS = [90, 4, 150, 9, 33, 200, 64]


def network_of(*, dtype: torch.dtype = torch.float64, **changes: object) -> ScFoundation:
    torch.manual_seed(0)
    config = ScFoundationConfig.preset("scfoundation-tiny", **{**SMALL, **changes})
    network = ScFoundation(config, genes=[f"G{i}" for i in range(GENES)])
    with torch.no_grad():  # gains and offsets start where they hide mistakes
        for name, p in network.named_parameters():
            if "norm" in name or name.endswith("bias"):
                p.add_(0.2 * torch.randn_like(p))
    return network.to(dtype).eval()


def cells_of(lengths: list[int] = LENGTHS) -> CellBatch:
    """A batch with hidden genes, and with listed genes that are not expressed."""
    batch = batch_of(lengths, read_depth=True)
    zero = torch.rand(batch.num_genes, generator=torch.Generator().manual_seed(3)) < 0.1
    return dataclasses.replace(batch, gene_ids=batch.gene_ids - 1, values=batch.values.masked_fill(zero, 0))
