"""ERetNet's layers without gradients, for tokens of a block of cells: whole, or for the sake of cls alone.

Shapes: B cells, N gene tokens of all cells, P prefix tokens per cell, D width, H heads, K head dim.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from cellfm_torch.model.layers import RetentionLayer, srms_norm
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
        """Read the state of each token's cell and norm it per head: (N + B P, D)."""
        read = RetentionState(state).read
        q = [rearrange(y, "n (h k) -> n h k", h=heads) for y in q]
        o = torch.cat([read(q[0], offsets=self.genes), read(q[1], offsets=self.prefix)])
        return rearrange(srms_norm(o).to(q[0].dtype), "n h k -> n (h k)")


def gated(layer: RetentionLayer, x: Tensor, shape: Segments, multiply: Multiply) -> Tensor:
    """Return what Wo of a layer's retention is given: normed retention times gate, (N + B P, D)."""
    retention, genes = layer.retention, shape.genes.num_tokens
    q, k, v, u = multiply(x, retention.q_proj, retention.k_proj, retention.v_proj, retention.u_proj)
    q, k = F.relu_(q), F.relu_(k)
    state = shape.state([k[:genes], k[genes:]], (v[:genes], v[genes:]), retention.num_heads)
    return shape.read([q[:genes], q[genes:]], state, retention.num_heads).mul_(F.silu(u, inplace=True))


def after_retention(layer: RetentionLayer, x: Tensor, gated: Tensor, multiply: Multiply) -> Tensor:
    """Finish a layer on tokens (any, D): Wo, residual, norm, and the whole GLU."""
    (out,) = multiply(gated, layer.retention.o_proj)
    x = layer.norm1(out.add_(x, alpha=layer.alpha))
    u, v = multiply(x, layer.glu.u_proj, layer.glu.v_proj)
    (out,) = multiply(u.mul_(v), layer.glu.o_proj)
    normed: Tensor = layer.norm2(out.add_(x, alpha=layer.alpha))
    return normed


def last_layer(layer: RetentionLayer, x: Tensor, shape: Segments, multiply: Multiply) -> Tensor:
    """Apply the last layer to tokens (N + B P, D), for the sake of cls alone: (B, D).

    v is needed of one sum of tokens per head, o = (sum_n (q . k_n) x_n) Wv, and k only where relu left q above zero.
    """
    retention = layer.retention
    heads, cls = retention.num_heads, x[shape.cls]
    q, u = exactly(cls, retention.q_proj, retention.u_proj)
    q = F.relu_(q)  # (B, D)
    keys = F.relu_(multiply(x, retention.k_proj)[0]) if isinstance(multiply, InBytes) else None
    gathered = x.new_zeros(len(cls), heads, x.shape[1])
    bounds = [shape.genes.bounds, [shape.genes.num_tokens + start for start in shape.prefix.bounds]]
    for cell, row in enumerate(q):
        by_head = torch.block_diag(*row.view(heads, -1, 1))  # (D, H): the dimensions of k that each head adds up
        if keys is None:
            used = row.nonzero()[:, 0]
            by_head, weight = by_head.index_select(0, used), retention.k_proj.weight.index_select(0, used)
        for bound in bounds:
            tokens = x[bound[cell] : bound[cell + 1]]
            k = F.relu_(product(tokens, weight)) if keys is None else keys[bound[cell] : bound[cell + 1]]
            gathered[cell].addmm_((k @ by_head).T, tokens)
    v = rearrange(retention.v_proj.weight, "(h k) d -> h k d", h=heads)
    o = einsum(gathered, v, "b h d, h k d -> b h k")
    o = srms_norm(o * shape.scale(o)[:, None, None])
    return after_retention(layer, cls, rearrange(o, "b h k -> b (h k)").mul_(F.silu(u)), exactly)
