"""ERetNet's layers without gradients, for tokens of a block of cells: whole, or for the sake of cls alone.

A `Multiply` that rounds is for the gene tokens, whose rounding evens out in each cell's sums. The few prefix tokens are
multiplied exactly: cls is what is read in the end, through every layer's residual.

Shapes: B cells, N gene tokens of all cells, P prefix tokens per cell, D width, H heads, K head dim.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from cellfm_torch.model.layers import RetentionLayer
from cellfm_torch.ops.gate import norm_gate
from cellfm_torch.ops.int8 import Int8Tokens, Int8Weight
from cellfm_torch.ops.layout import Layout
from cellfm_torch.ops.linear import product
from cellfm_torch.ops.retention import RetentionState, retention_state

Multiply = Callable[..., tuple[Tensor, ...]]
"""Tokens and dense layers in, one product per layer out."""


def exactly(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """Multiply in the dtype of the weights."""
    return tuple(product(x, layer.weight) for layer in layers)


class InBytes:
    """Multiply in 8-bit integers; each layer's weight is rounded when it is first used."""

    def __init__(self) -> None:
        self.weights: dict[nn.Linear, Int8Weight] = {}

    def __call__(self, x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
        """Multiply tokens that are rounded once for all layers."""
        tokens = Int8Tokens(x)
        for layer in layers:
            if layer not in self.weights:
                self.weights[layer] = Int8Weight(layer.weight)
        return tuple(self.weights[layer](tokens) for layer in layers)


class Segments:
    """Where the tokens of a block lie: the genes of all cells end to end, then P prefix tokens of each cell."""

    def __init__(self, offsets: Tensor, num_prefix: int) -> None:
        cells = len(offsets) - 1
        self.genes = Layout.of(offsets)
        self.prefix = Layout.of(torch.arange(cells + 1, device=offsets.device) * num_prefix)
        self.cls = self.genes.num_tokens + self.prefix.offsets[:-1]
        self.lengths = self.genes.lengths + num_prefix

    def state(self, k: list[Tensor], v: tuple[Tensor, Tensor], heads: int) -> Tensor:
        """Sum keys and values of each cell, genes and prefix; scaled as the network scales it: (B, H, K, K)."""
        split = [rearrange(y, "n (h k) -> n h k", h=heads) for y in (*k, *v)]
        state = retention_state(split[0], split[2], offsets=self.genes).tensor
        state += retention_state(split[1], split[3], offsets=self.prefix).tensor
        return state * self.scale(state)[:, None, None, None]

    def scale(self, like: Tensor) -> Tensor:
        """Return 1 / (K sqrt(tokens)) of each cell (B,): it keeps half precision in range."""
        return self.lengths.clamp_min(1).to(like.dtype).rsqrt() / like.shape[-1]

    def read(self, q: list[Tensor], state: Tensor, heads: int) -> Tensor:
        """Read the state of each token's cell: (N + B P, H, K)."""
        read = RetentionState(state).read
        split = [rearrange(y, "n (h k) -> n h k", h=heads) for y in q]
        return torch.cat([read(split[0], offsets=self.genes), read(split[1], offsets=self.prefix)])

    def weighted_sum(self, a: Tensor, x: Tensor) -> Tensor:
        """Add up the tokens x (N + B P, D) of each cell, once per head, by weights a (N + B P, H): (B, H, D)."""
        n, a, x = self.genes.num_tokens, a[:, None], x[:, None]
        total = retention_state(a[:n], x[:n], offsets=self.genes).tensor
        total += retention_state(a[n:], x[n:], offsets=self.prefix).tensor
        return total[:, 0]

    def rows(self, cell: int) -> tuple[slice, slice]:
        """Return where the genes and the prefix tokens of a cell are."""
        n, genes, prefix = self.genes.num_tokens, self.genes.bounds, self.prefix.bounds
        return slice(genes[cell], genes[cell + 1]), slice(n + prefix[cell], n + prefix[cell + 1])

    def of_tokens(self, x: Tensor) -> Tensor:
        """Repeat what each cell has (B, D) for its tokens: (N + B P, D)."""
        parts = [
            torch.repeat_interleave(x, layout.lengths, dim=0, output_size=layout.num_tokens)
            for layout in (self.genes, self.prefix)
        ]
        return torch.cat(parts)


def gated(layer: RetentionLayer, x: Tensor, shape: Segments, multiply: Multiply) -> Tensor:
    """Return what Wo of a layer's retention is given: normed retention times gate, (N + B P, D)."""
    retention, genes = layer.retention, shape.genes.num_tokens
    dense = retention.q_proj, retention.k_proj, retention.v_proj, retention.u_proj
    (q, k, v, u), of_prefix = multiply(x[:genes], *dense), exactly(x[genes:], *dense)
    qs, ks, vs = [F.relu_(q), F.relu_(of_prefix[0])], [F.relu_(k), F.relu_(of_prefix[1])], (v, of_prefix[2])
    state = shape.state(ks, vs, retention.num_heads)
    return norm_gate(shape.read(qs, state, retention.num_heads), torch.cat([u, of_prefix[3]]))


def after_retention(layer: RetentionLayer, x: Tensor, gated: Tensor, multiply: Multiply) -> Tensor:
    """Finish a layer on tokens (any, D): Wo, residual, norm, and the whole GLU."""
    (out,) = multiply(gated, layer.retention.o_proj)
    x = layer.norm1(out.add_(x, alpha=layer.alpha))
    u, v = multiply(x, layer.glu.u_proj, layer.glu.v_proj)
    (out,) = multiply(u.mul_(v), layer.glu.o_proj)
    normed: Tensor = layer.norm2(out.add_(x, alpha=layer.alpha))
    return normed


def whole_layer(layer: RetentionLayer, x: Tensor, gated: Tensor, genes: int, multiply: Multiply) -> Tensor:
    """Finish a layer on the tokens of a block, (N + B P, D), of which the first `genes` are genes."""
    if multiply is exactly:
        return after_retention(layer, x, gated, exactly)
    parts = ((slice(genes), multiply), (slice(genes, None), exactly))
    return torch.cat([after_retention(layer, x[part], gated[part], how) for part, how in parts])


def last_layer(layer: RetentionLayer, x: Tensor, shape: Segments, multiply: Multiply) -> Tensor:
    """Apply the last layer to tokens (N + B P, D), for the sake of cls alone: (B, D).

    v is needed of one sum of tokens per head, o = (sum_n (q . k_n) x_n) Wv.
    """
    retention, cls = layer.retention, x[shape.cls]
    q, u = exactly(cls, retention.q_proj, retention.u_proj)
    gathered = shape.weighted_sum(_seen_by(F.relu_(q), layer, x, shape, multiply), x).to(x.dtype)
    v = rearrange(retention.v_proj.weight, "(h k) d -> h k d", h=retention.num_heads)
    o = einsum(gathered, v, "b h d, h k d -> b h k")
    return after_retention(layer, cls, norm_gate(o * shape.scale(o)[:, None, None], u), exactly)


def _seen_by(q: Tensor, layer: RetentionLayer, x: Tensor, shape: Segments, multiply: Multiply) -> Tensor:
    """Return q . k_n of each token and head, (N + B P, H), for one query per cell (B, D).

    On a CPU k is computed only where relu left q above zero, unless it is cheap; a GPU would have to wait for q.
    """
    retention = layer.retention
    heads = retention.num_heads
    if x.device.type != "cpu":
        weighted = F.relu_(multiply(x, retention.k_proj)[0]).mul_(shape.of_tokens(q))
        return weighted.unflatten(1, (heads, -1)).sum(-1)
    seen = x.new_empty(len(x), heads)
    keys = F.relu_(multiply(x, retention.k_proj)[0]) if isinstance(multiply, InBytes) else None
    for cell, row in enumerate(q):
        by_head = torch.block_diag(*row.view(heads, -1, 1))  # (D, H): the dimensions of k that each head adds up
        used = row.nonzero()[:, 0]
        weight = retention.k_proj.weight.index_select(0, used)
        for rows in shape.rows(cell):
            if keys is None:
                seen[rows] = F.relu_(product(x[rows], weight)) @ by_head.index_select(0, used)
            else:
                seen[rows] = keys[rows] @ by_head
    return seen
