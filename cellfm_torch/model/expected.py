"""Expected expression of every gene by a CellFM that knows of unexpressed genes.

Shapes: B cells, N gene tokens, D width, G genes of the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cellfm_torch.model.heads import probability

if TYPE_CHECKING:
    from cellfm_torch.batch import CellBatch
    from cellfm_torch.model.cellfm import CellFM


@torch.inference_mode()
def expected_expression(network: CellFM, batch: CellBatch) -> Tensor:
    """Return the expected log1p(CP10K) of every gene of the vocabulary, (B, G): probability of expression times value.

    Of genes with counts the mean of both decoders, by gene and by cell; of all others by cell, which needs the gene's
    embedding only: by gene a token without counts is told that it has none, and says so at any depth. At the target
    depth, where the network reads one.

    Raises
    ------
    ValueError
        If the network has no heads for unexpressed genes: what it says is of genes that are expressed.
    """
    if not (network.config.decoders and network.config.zeros):
        raise ValueError("expected expression takes a network with zeros=True, which knows of unexpressed genes")
    training = network.training
    network.eval()
    try:
        encoding = network.encode(batch)
        static = network.static_genes
        decoder = network.cell_decoder
        value = encoding.cell @ decoder.map(static).sigmoid().T
        assert decoder.expressed is not None
        out = (value * probability(encoding.cell @ decoder.expressed(static).T)).float()
        by_gene, expressed = network.gene_decoder(encoding.genes)
        assert expressed is not None
        counted = (batch.values > 0).nonzero()[:, 0]
        cells, genes = batch.cell_of_gene[counted], batch.gene_ids[counted] - network.input_spec.first_id
        out[cells, genes] = (out[cells, genes] + by_gene[counted].float() * expressed[counted].float()) / 2
        return out.clamp_min(0)
    finally:
        network.train(training)
