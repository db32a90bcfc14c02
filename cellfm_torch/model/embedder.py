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

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from cellfm_torch.model.inference import (
    InBytes,
    Pair,
    Segments,
    exactly,
    from_tokens,
    gated,
    last_layer,
    whole_layer,
)
from cellfm_torch.model.layers import RetentionLayer
from cellfm_torch.model.lora import merge_lora
from cellfm_torch.ops.linear import product

if TYPE_CHECKING:
    from cellfm_torch.batch import CellBatch
    from cellfm_torch.model.cellfm import CellFM

BLOCK = 2048
"""Tokens worked on at once, of whole cells or of a long one: a few of their (tokens, D) buffers fit into a cache."""

GROUP = 16384
"""Tokens that go through a layer before the next one is begun: its weights are read once for all of their blocks."""


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

    def index(self, dense: nn.Linear) -> int:
        """Return which of the four projections this is."""
        return next(i for i, weight in enumerate(self.weights) if weight is dense.weight)


class KnownTokens:
    """Gene tokens (N, D) of which gene and value are known, the encoder's input: a gene's row plus a value's vector.

    Nothing as wide as D is kept from one call to the next.
    """

    def __init__(self, network: CellFM, ids: Tensor, values: Tensor) -> None:
        self.network = network
        self.ids = ids
        self.values, self.which = values.unique(return_inverse=True)

    def tokens(self) -> Tensor:
        """Return the tokens themselves."""
        vectors = self.network.embed_visible(self.values)
        return self.network.gene_emb.weight.index_select(0, self.ids).add_(vectors.index_select(0, self.which))

    def project(self, table: FirstLayerTable, *dense: nn.Linear) -> Iterator[Tensor]:
        """Yield their products with projections of the first layer, whose rows are in the table."""
        bins = self.network.value_enc.choice(self.values.to(table.rows.dtype))
        # An expression of zero has a vector of its own, which no bins make up.
        zero = self.values == 0 if self.network.config.zeros and bool((self.values == 0).any()) else None
        for layer in dense:
            i = table.index(layer)
            of_values = product(bins, table.bins[i])
            if zero is not None:
                of_values[zero] = product(self.network.embed_visible(self.values[zero]), layer.weight)
            yield table.rows[i].index_select(0, self.ids).add_(of_values.index_select(0, self.which))


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
        for run in groups(blocks(offsets, BLOCK), offsets, GROUP):
            cells = slice(run[0][0], run[-1][1])
            out[cells] = self._embed([self._block(batch, prefix, offsets, *cut) for cut in run])
        return out

    def _block(self, batch: CellBatch, prefix: Tensor, offsets: list[int], first: int, end: int) -> Block:
        genes = slice(offsets[first], offsets[end])
        ids, values = batch.gene_ids[genes], batch.values[genes]
        return Block(self.plain, ids, values, batch.offsets[first : end + 1] - offsets[first], prefix[first:end])

    def _refresh(self) -> None:
        """Make the tables, again where a weight has changed since."""
        made_of = [(p.data_ptr(), p._version) for p in self.network.parameters()]
        if made_of == self._made_of:
            return
        self.plain = merge_lora(self.network) if self.network.config.lora_rank else self.network
        self.table = FirstLayerTable(self.plain)
        self.multiply = InBytes() if self.int8 else exactly
        self._made_of = made_of

    def _embed(self, group: list[Block]) -> Tensor:
        """Embed the cells of some blocks, layer by layer."""
        layers = cast(list[RetentionLayer], list(self.plain.encoder))
        for block in group:
            if len(layers) == 1:
                block.x = [torch.cat([genes.tokens(), end]) for genes, end in zip(block.known, block.ends, strict=True)]
            else:
                self.table.fill(block.ids)
                block.x = list(self._first_layer(layers[0], block))
        for layer in layers[1:-1]:
            for block in group:
                parts, x = block.parts, block.x
                made = gated(layer, parts, from_tokens(x, parts, self.multiply))
                for i, (part, y) in enumerate(zip(parts, made, strict=True)):
                    x[i] = whole_layer(layer, x[i], y, part.genes.num_tokens, self.multiply)
        return torch.cat([last_layer(layers[-1], block.x, block.parts, self.multiply) for block in group])

    def _first_layer(self, layer: RetentionLayer, block: Block) -> Iterator[Tensor]:
        """Apply the first layer to tokens that are known by gene and value; yields (N + B P, D) of each part."""

        def project(i: int, *dense: nn.Linear) -> list[Pair]:
            genes = block.known[i].project(self.table, *dense)
            return list(zip(genes, exactly(block.ends[i], *dense), strict=True))

        for i, y in enumerate(gated(layer, block.parts, project)):
            x = torch.cat([block.known[i].tokens(), block.ends[i]])
            yield whole_layer(layer, x, y, block.parts[i].genes.num_tokens, self.multiply)


class Block:
    """Some cells, or one long cell in several parts: their genes, and the prefix tokens (B, P, D) of each.

    Attributes
    ----------
    x : list of (N + B P, D)
        Tokens of each part, as the layers so far have left them.
    """

    def __init__(self, network: CellFM, ids: Tensor, values: Tensor, offsets: Tensor, prefix: Tensor) -> None:
        self.ids = ids
        self.parts = Segments.parts(offsets, prefix.shape[1], BLOCK)
        sizes = [part.genes.num_tokens for part in self.parts]
        self.known = [KnownTokens(network, *x) for x in zip(ids.split(sizes), values.split(sizes), strict=True)]
        self.ends = prefix.flatten(0, 1).split([part.prefix.num_tokens for part in self.parts])
        self.x: list[Tensor] = []


def groups(runs: list[tuple[int, int]], offsets: list[int], size: int) -> list[list[tuple[int, int]]]:
    """Put runs of cells together up to `size` genes; a longer run is a group of its own."""
    found: list[list[tuple[int, int]]] = []
    for run in runs:
        if found and offsets[run[1]] - offsets[found[-1][0][0]] <= size:
            found[-1].append(run)
        else:
            found.append([run])
    return found


def blocks(offsets: list[int], size: int) -> list[tuple[int, int]]:
    """Cut cells into runs (first, end) of at most `size` genes; a longer cell is a run of its own."""
    runs, first = [], 0
    for cell in range(1, len(offsets)):
        if cell == len(offsets) - 1 or offsets[cell + 1] - offsets[first] > size:
            runs.append((first, cell))
            first = cell
    return runs
