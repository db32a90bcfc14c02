r"""The retention map of a group of cells: what each gene gathers from which other, averaged over cells.

In a cell, gene n takes from token m the share :math:`a_{nm} = q_n \cdot k_m / \sum_t q_n \cdot k_t`: rows add up to one
over all tokens of the cell. One cell's map of one layer is held at a time.

Shapes: T tokens of a batch, n chosen genes of a cell, H heads, K head dim, M chosen genes, G vocabulary, L layers,
D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from einops import einsum, rearrange
from numpy.typing import NDArray
from torch import Tensor

from cellfm_torch.batch import CellBatch
from cellfm_torch.job_folder import Arrays
from cellfm_torch.model.cellfm import CellFM
from cellfm_torch.model.maps import read_layers
from cellfm_torch.ops.layout import Layout


def shares_of(q: Tensor, k_sum: Tensor) -> Tensor:
    """Divide queries (n, H, K) by what they get from all tokens of the cell, of which `k_sum` (H, K) is the sum.

    A query that takes nothing from any token stays zero.
    """
    whole = einsum(q, k_sum, "n h k, h k -> n h")
    return q * torch.where(whole > 0, 1 / whole.clamp_min(torch.finfo(q.dtype).tiny), 0)[..., None]


class MapSums:
    """Sum of the maps of cells over M genes, per layer and, where asked for, per head.

    Parameters
    ----------
    network
        In evaluation mode.
    rows : (M,)
        The genes, ids as the model has them.
    layers
        Which, from 0.
    by_head
        Keep the map of each head; otherwise their mean, which takes no H times the memory.

    Attributes
    ----------
    total : (L, H or 1, M, M) float64
        Sum of the shares over cells.
    cells : (M,) int64
        Cells that express each gene.
    both : (M, M) int32
        Cells that express both.
    context : (M, D) float64
        Sum of each gene's encoding over the cells that express it.
    cls_total : (L, G) float64
        Sum over cells of the share of each gene in what cls gathers, times the tokens of the cell: 1 is its fair share.
    """

    NAMES = ("total", "both", "cells", "context", "cls_total")

    def __init__(self, network: CellFM, rows: NDArray[np.int64], *, layers: Sequence[int], by_head: bool) -> None:
        self.network, self.layers, self.by_head = network, tuple(layers), by_head
        genes, heads = len(rows), network.num_heads if by_head else 1
        self.place = torch.full((len(network.gene_emb.weight),), -1)
        self.place[torch.from_numpy(rows)] = torch.arange(genes)
        self.total = torch.zeros(len(self.layers), heads, genes, genes, dtype=torch.float64)
        self.both = torch.zeros(genes, genes, dtype=torch.int32)
        self.cells = torch.zeros(genes, dtype=torch.int64)
        self.context = torch.zeros(genes, network.gene_dim, dtype=torch.float64)
        self.cls_total = torch.zeros(len(self.layers), network.config.num_genes, dtype=torch.float64)

    @torch.inference_mode()
    def add(self, batch: CellBatch) -> None:
        """See some cells."""
        ids = batch.gene_ids.cpu()
        at, bounds = self.place[ids], batch.offsets.tolist()
        cells = [at[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
        for place in cells:
            here = place[place >= 0]
            self.cells[here] += 1
            self.both[here[:, None], here] += 1

        def see(layer: int, q: Tensor, k: Tensor, layout: Layout) -> None:
            number = self.layers.index(layer)
            prefix = (layout.num_tokens - batch.num_genes) // max(batch.num_cells, 1)
            for cell, (first, end) in enumerate(layout.cells()):
                self._add_cell(number, q[first:end], k[first:end], prefix, cells[cell])
                genes = slice(bounds[cell], bounds[cell + 1])
                to_cls = cls_weights(q[first], k[first:end])[prefix:]
                self.cls_total[number].index_add_(0, ids[genes] - 1, to_cls.double().cpu())

        encoded = read_layers(self.network, batch, see, layers=self.layers).genes
        chosen = (at >= 0).nonzero()[:, 0]
        self.context.index_add_(0, at[chosen], encoded[chosen.to(encoded.device)].double().cpu())

    def _add_cell(self, number: int, q: Tensor, k: Tensor, prefix: int, place: Tensor) -> None:
        chosen = (place >= 0).nonzero()[:, 0]
        rows, here = chosen.to(q.device) + prefix, place[chosen]
        q, chosen_k = shares_of(q[rows].float(), k.float().sum(0)), k[rows].float()
        if self.by_head:
            found = einsum(q, chosen_k, "n h k, m h k -> h n m").double().cpu()
            for head, one in enumerate(found):
                self.total[number, head][here[:, None], here] += one
        else:  # heads one after the other in each row: their sum in one product
            found = rearrange(q, "n h k -> n (h k)") @ rearrange(chosen_k, "m h k -> (h k) m") / q.shape[1]
            self.total[number, 0][here[:, None], here] += found.double().cpu()

    def arrays(self) -> Arrays:
        """Return what was added up."""
        return {name: getattr(self, name).numpy() for name in self.NAMES}

    def load(self, arrays: Arrays) -> None:
        """Go on from what :meth:`arrays` returned."""
        for name in self.NAMES:
            getattr(self, name).copy_(torch.from_numpy(arrays[name]))


def cls_weights(q: Tensor, k: Tensor) -> Tensor:
    """Return how much cls gathers from each token of its cell, as a multiple of a fair share: mean over heads, (t,).

    Parameters
    ----------
    q : (H, K)
        Of cls.
    k : (t, H, K)
        Of the tokens of its cell, itself among them.
    """
    k = k.to(torch.promote_types(k.dtype, torch.float32))
    share = shares_of(q[None].to(k.dtype), k.sum(0))[0]
    return einsum(share, k, "h k, t h k -> t h").mean(1) * len(k)
