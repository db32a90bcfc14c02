"""From what scFoundation's encoder says of the expressed genes to its decoder's answer for every gene.

Shapes: B cells, b of them at once, N genes of all cells together, G genes of the vocabulary, P = G + 2 positions of the
decoder (the genes, T, S), E its width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cellfm_torch.batch import CellBatch
from cellfm_torch.model.outputs import Encoding
from cellfm_torch.ops.fused import affine

if TYPE_CHECKING:
    from cellfm_torch.model.scfoundation.network import ScFoundation

DECODED_AT_ONCE = 1 << 16
"""Positions the decoder works on at once, in whole cells; at the published size each takes some 70 kB at the peak."""


def decoded(network: ScFoundation, batch: CellBatch, encoding: Encoding, finish: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply the decoder to all positions and `finish` to its genes (b, G, E), some cells at a time; (B, G, ...)."""
    projections, norm = network.decoder.projections(), network.norm
    num_genes = network.config.num_genes
    done = [finish(norm(network.decoder(x, projections)[:, :num_genes])) for x in _positions(network, batch, encoding)]
    return torch.cat(done) if done else finish(norm.weight.new_zeros(0, num_genes, network.config.decoder_dim))


def _positions(network: ScFoundation, batch: CellBatch, encoding: Encoding) -> Iterator[Tensor]:
    """Yield the decoder's input (b, P, E), some cells at a time."""
    positions, weight, to_decoder = network.config.num_positions, network.gene_emb.weight, network.to_decoder
    # What most positions get, the same in every cell: a gene that is not expressed.
    zero = network.value_enc(weight.new_zeros(1))
    unexpressed = affine(to_decoder, zero + weight[:positions])  # (P, E)
    listed = affine(to_decoder, encoding.genes + encoding.gene_embedding).to(unexpressed.dtype)  # (N, E)
    ends = encoding.prefix.flip(1) + weight[positions - 2 : positions]  # T, S
    ends = affine(to_decoder, ends.flatten(0, 1)).to(unexpressed.dtype)  # (2 B, E)
    where = batch.cell_of_gene * positions + batch.gene_ids
    offsets, at_once = batch.offsets.tolist(), max(1, DECODED_AT_ONCE // positions)
    last_two = torch.arange(positions - 2, positions, device=where.device)
    for first in range(0, batch.num_cells, at_once):
        end = min(first + at_once, batch.num_cells)
        genes = slice(offsets[first], offsets[end])
        x = unexpressed.repeat(end - first, 1)  # (b P, E)
        x = x.index_copy(0, where[genes] - first * positions, listed[genes])
        rows = (torch.arange(end - first, device=where.device)[:, None] * positions + last_two).flatten()
        x = x.index_copy(0, rows, ends[2 * first : 2 * end])
        yield x.unflatten(0, (end - first, positions))
