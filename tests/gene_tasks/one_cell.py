"""Single cells of a file as batches of their own, in float64: what sums over batches are compared with."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cellfm_torch import CellBatch, CellDataModule, CellFM


def single_cells(adata: Any, network: CellFM) -> Iterator[CellBatch]:
    """Yield each cell with counts, all its genes, in float64."""
    data = CellDataModule(adata, input_spec=network.input_spec.sampling(None), min_genes=0, verbose=False)
    for row in range(adata.n_obs):
        if data.table.lengths[row]:
            data.predict_rows = torch.tensor([row]).numpy()
            (batch,) = list(data.predict_dataloader())
            batch.values = batch.values.double()
            yield batch


def maps_of(batch: CellBatch, network: CellFM) -> tuple[Tensor, Tensor]:
    """Return the normalised map of each layer of one cell, (L, H, T, T) with cls first, and its gene encodings.

    Written from the definition: the layers' inputs, q and k per head, every pair.
    """
    double = copy.deepcopy(network).double()
    inputs: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda module, given: inputs.append(given[0])) for layer in double.encoder]
    with torch.no_grad():
        encoded = double.encode(batch).genes
    for hook in hooks:
        hook.remove()
    maps = []
    for x, layer in zip(inputs, double.encoder, strict=True):
        q, k = (torch.relu(x @ p.weight.detach().T) for p in (layer.retention.q_proj, layer.retention.k_proj))
        width = network.config.head_dim
        heads = []
        for head in range(network.num_heads):
            part = slice(head * width, (head + 1) * width)
            pairs = q[:, part] @ k[:, part].T
            whole = pairs.sum(1, keepdim=True)
            heads.append(torch.where(whole > 0, pairs / whole.clamp_min(1e-300), 0))
        maps.append(torch.stack(heads))
    return torch.stack(maps), encoded
