"""Cell embeddings without what only other outputs need, on all cores of a CPU.

Shapes: B cells, T tokens of all cells together, D width, C width of the cell embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cellfm_torch.model.embedder import blocks
from cellfm_torch.model.scfoundation.encoder import GPU_BLOCK
from cellfm_torch.ops.fused import Packed
from cellfm_torch.ops.threads import each_on_one_thread

if TYPE_CHECKING:
    from cellfm_torch.batch import CellBatch
    from cellfm_torch.model.scfoundation.network import ScFoundation

BLOCK = 1024
"""Tokens that one core of a CPU works on at once, in whole cells."""


class CellEmbedder:
    """Embed cells with an scFoundation as its weights are now; see :meth:`ScFoundation.embedder`.

    On a CPU each core takes blocks of cells through all layers on its own: nothing is shared but the weights, so that
    no core waits for another between products, as they do when they share each of them.
    """

    def __init__(self, network: ScFoundation) -> None:
        self.network = network
        self.dense = Packed()

    @torch.inference_mode()
    def __call__(self, batch: CellBatch) -> Tensor:
        """Return the embedding of each cell, (B, C)."""
        network = self.network
        training = network.training
        network.eval()
        try:
            tokens = network.tokens(batch)
            on_cpu = tokens.x.device.type == "cpu"
            ends = torch.tensor([0, *tokens.lengths]).cumsum(0).tolist()
            runs = blocks(ends, BLOCK if on_cpu else GPU_BLOCK)

            def embed(run: tuple[int, int]) -> Tensor:
                first, end = run
                lengths = tokens.lengths[first:end]
                x = network.encoder.run(tokens.x[ends[first] : ends[end]], lengths=lengths, dense=self.dense)
                return network.pool(x, lengths)

            done = each_on_one_thread(embed, runs) if on_cpu else [embed(run) for run in runs]
        finally:
            network.train(training)
        return torch.cat(done) if done else tokens.x.new_zeros(0, network.cell_dim)
