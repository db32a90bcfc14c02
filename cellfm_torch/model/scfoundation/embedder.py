"""What scFoundation gives for a cell, by name; cell embeddings without what only other outputs need.

Shapes: B cells, T tokens of all cells together, D width, C width of the cell embedding, G genes, E decoder width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from cellfm_torch.model.embedder import blocks
from cellfm_torch.model.scfoundation.encoder import GPU_BLOCK
from cellfm_torch.model.scfoundation.tokens import pool
from cellfm_torch.ops.fused import Packed
from cellfm_torch.ops.threads import each_on_one_thread

if TYPE_CHECKING:
    from cellfm_torch.batch import CellBatch
    from cellfm_torch.model.scfoundation.network import ScFoundation

BLOCK = 1024
"""Tokens that one core of a CPU works on at once, in whole cells."""


def outputs(network: ScFoundation) -> dict[str, Callable[[CellBatch], Tensor]]:
    """Return a function from batches to each output; see :meth:`ScFoundation.outputs`."""

    def evaluated(call: Callable[[CellBatch], Tensor]) -> Callable[[CellBatch], Tensor]:
        @torch.inference_mode()
        def run(batch: CellBatch) -> Tensor:
            training = network.training
            network.eval()
            try:
                return call(batch)
            finally:
                network.train(training)

        return run

    return {
        "cell": CellEmbedder(network),
        "max": CellEmbedder(network, pool="max"),
        "gene": evaluated(network.gene_embeddings),
        "expression": evaluated(lambda batch: cast(Tensor, network(batch).expression)),
    }


class CellEmbedder:
    """Embed cells with an scFoundation as its weights are now; see :meth:`ScFoundation.embedder`.

    `pool` replaces that of the configuration.

    On a CPU each core takes blocks of cells through all layers on its own: nothing is shared but the weights, so that
    no core waits for another between products, as they do when they share each of them.
    """

    def __init__(self, network: ScFoundation, *, pool: str | None = None) -> None:
        self.network = network
        self.pool = pool
        self.dense = Packed()

    @torch.inference_mode()
    def __call__(self, batch: CellBatch) -> Tensor:
        """Return the embedding of each cell, (B, C)."""
        network = self.network
        kind = self.pool or network.config.pool
        training = network.training
        network.eval()
        try:
            tokens = network.tokens(batch)
            on_cpu = tokens.x.device.type == "cpu"
            ends = torch.tensor([0, *tokens.lengths]).cumsum(0).tolist()
            runs = blocks(ends, BLOCK if on_cpu else GPU_BLOCK)
            # Longest first: at the end no core is left alone with a long one.
            order = sorted(range(len(runs)), key=lambda i: ends[runs[i][0]] - ends[runs[i][1]])

            def embed(run: tuple[int, int]) -> Tensor:
                first, end = run
                lengths = tokens.lengths[first:end]
                x = network.encoder.run(tokens.x[ends[first] : ends[end]], lengths=lengths, dense=self.dense)
                return pool(x, lengths, kind)

            ordered = [runs[i] for i in order]
            done = each_on_one_thread(embed, ordered) if on_cpu else [embed(run) for run in ordered]
        finally:
            network.train(training)
        if not done:
            return pool(tokens.x, [], kind)
        return torch.cat([x for _, x in sorted(zip(order, done, strict=True), key=lambda pair: pair[0])])
