"""Cell embeddings without what only other outputs need: exact, at about a quarter of the arithmetic.

Shapes: B cells, N gene tokens of all cells, P prefix tokens per cell, D width, H heads, K head dim, G vocabulary,
W = 256 bins of the value table, U distinct values.

With E = 16 D^2 per token and layer, the plain cost, this is what is left of the first and the last layer:

* First layer: a token is gene row + value vector, so its q, k, v and u are the sum of a row of ``gene_emb @ W`` (kept)
  and of a product over the *distinct* values, which are few where values come from counts. E becomes E / 2.
* Last layer: only cls is read, ``o = sum_n (q . k_n) v_n``, so v is needed of one weighted sum of tokens, and k only in
  the dimensions where relu left q above zero. E becomes at most E / 8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellfm_torch.model.inference import InBytes, Segments, exactly, gated, last_layer, whole_layer
from cellfm_torch.model.layers import RetentionLayer
from cellfm_torch.model.lora import merge_lora
from cellfm_torch.ops.gate import norm_gate
from cellfm_torch.ops.linear import product

if TYPE_CHECKING:
    from cellfm_torch.batch import CellBatch
    from cellfm_torch.model.cellfm import CellFM

BLOCK = 2048
"""Tokens worked on at once, in whole cells: a few of their (tokens, D) buffers fit into a processor's cache."""


class FirstLayerTable:
    """``gene_emb @ W`` for the four projections W of the first layer, filled row by row as genes are first seen.

    Takes 4 D numbers per row of the gene embedding when full: 0.68 GB in float32 for the published 80M.
    """

    def __init__(self, network: CellFM) -> None:
        retention = cast(RetentionLayer, network.encoder[0]).retention
        self.genes = network.gene_emb.weight
        self.weights = [p.weight for p in (retention.q_proj, retention.k_proj, retention.v_proj, retention.u_proj)]
        self.rows = self.genes.new_empty(len(self.weights), *self.genes.shape)  # memory is taken when it is written
        self.filled = torch.zeros(len(self.genes), dtype=torch.bool, device=self.genes.device)
        # Of the value part: W @ table, so that distinct values cost W = 256 products per output, not D.
        self.bins = [product(weight, network.value_enc.table.weight.T.contiguous()) for weight in self.weights]

    def fill(self, ids: Tensor) -> None:
        """Make the rows of these genes."""
        missing = ids.unique()
        missing = missing[~self.filled[missing]]
        if len(missing):
            x = self.genes[missing]
            for table, weight in zip(self.rows, self.weights, strict=True):
                table[missing] = product(x, weight)
            self.filled[missing] = True

    def look_up(self, i: int, ids: Tensor, values: Tensor, which: Tensor) -> Tensor:
        """Return projection i (N, D) of gene ids (N,) with distinct values (U, D), of which each has `which` (N,)."""
        return self.rows[i].index_select(0, ids).add_(values.index_select(0, which))


class CellEmbedder:
    """Embed cells with a CellFM as its weights are now; see :meth:`CellFM.embedder`.

    Batches with hidden values take the network's ordinary path: nothing here knows of masks.
    """

    def __init__(self, network: CellFM, *, int8: bool = False) -> None:
        self.network = network
        self.int8 = int8
        self._made_of: list[tuple[int, int]] = []

    @torch.inference_mode()
    def __call__(self, batch: CellBatch) -> Tensor:
        """Return the cls embedding of each cell, (B, D), computed in the dtype of the weights also under autocast."""
        with torch.autocast(batch.values.device.type, enabled=False):
            return self.network.encode(batch).cell if bool(batch.hidden.any()) else self._embed_all(batch)

    def _embed_all(self, batch: CellBatch) -> Tensor:
        self._refresh()
        offsets = batch.offsets.tolist()
        prefix = self.plain._embed_prefix(batch)
        out = prefix.new_empty(batch.num_cells, prefix.shape[2])
        for first, end in blocks(offsets, BLOCK):
            genes = slice(offsets[first], offsets[end])
            part = batch.offsets[first : end + 1] - offsets[first]
            out[first:end] = self._embed(batch.gene_ids[genes], batch.values[genes], part, prefix[first:end])
        return out

    def _refresh(self) -> None:
        """Make the tables, again where a weight has changed since."""
        made_of = [(p.data_ptr(), p._version) for p in self.network.parameters()]
        if made_of == self._made_of:
            return
        self.plain = merge_lora(self.network) if self.network.config.lora_rank else self.network
        self.table = FirstLayerTable(self.plain)
        self.multiply = InBytes() if self.int8 else exactly
        self._made_of = made_of

    def _embed(self, ids: Tensor, values: Tensor, offsets: Tensor, prefix: Tensor) -> Tensor:
        """Embed a block of cells: the genes of all, and the prefix tokens (B, P, D) of each."""
        shape = Segments(offsets, prefix.shape[1])
        prefix = prefix.flatten(0, 1)
        layers = cast(list[RetentionLayer], list(self.plain.encoder))
        if len(layers) == 1:
            x = torch.cat([self._tokens(ids, values), prefix])
        else:
            x = self._first_layer(layers[0], ids, values, prefix, shape)
        for layer in layers[1:-1]:
            y = gated(layer, x, shape, self.multiply)
            x = whole_layer(layer, x, y, shape.genes.num_tokens, self.multiply)
        return last_layer(layers[-1], x, shape, self.multiply)

    def _tokens(self, ids: Tensor, values: Tensor) -> Tensor:
        """Return the encoder's input (N, D) of gene tokens."""
        distinct, which = values.unique(return_inverse=True)
        return self._tokens_of(ids, self.plain.embed_visible(distinct), which)

    def _tokens_of(self, ids: Tensor, values: Tensor, which: Tensor) -> Tensor:
        return self.plain.gene_emb.weight.index_select(0, ids).add_(values.index_select(0, which))

    def _first_layer(
        self, layer: RetentionLayer, ids: Tensor, values: Tensor, prefix: Tensor, shape: Segments
    ) -> Tensor:
        """Apply the first layer to tokens that are known by gene and value; returns (N + B P, D)."""
        table, retention = self.table, layer.retention
        table.fill(ids)
        distinct, which = values.unique(return_inverse=True)
        embedded = self.plain.embed_visible(distinct)
        bins = self.plain.value_enc.choice(distinct.to(embedded.dtype))
        zero = distinct == 0 if self.plain.config.zeros else None

        def project(i: int, linear: nn.Linear) -> tuple[Tensor, Tensor]:
            of_values = product(bins, table.bins[i])
            if zero is not None and bool(zero.any()):
                of_values[zero] = product(embedded[zero], linear.weight)
            return table.look_up(i, ids, of_values, which), product(prefix, linear.weight)

        k = [F.relu(y) for y in project(1, retention.k_proj)]
        state = shape.state(k, project(2, retention.v_proj), retention.num_heads)
        q = [F.relu(y) for y in project(0, retention.q_proj)]
        o = shape.read(q, state, retention.num_heads)
        gate = torch.cat(project(3, retention.u_proj))
        x = torch.cat([self._tokens_of(ids, embedded, which), prefix])
        return whole_layer(layer, x, norm_gate(o, gate), shape.genes.num_tokens, self.multiply)


def blocks(offsets: list[int], size: int) -> list[tuple[int, int]]:
    """Cut cells into runs (first, end) of at most `size` genes; a longer cell is a run of its own."""
    runs, first = [], 0
    for cell in range(1, len(offsets)):
        if cell == len(offsets) - 1 or offsets[cell + 1] - offsets[first] > size:
            runs.append((first, cell))
            first = cell
    return runs
