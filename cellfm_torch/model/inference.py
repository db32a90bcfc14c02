"""ERetNet's layers without gradients, for some cells at a time: whole, or for the sake of cls alone.

A `Multiply` that rounds is for the gene tokens, whose rounding evens out in each cell's sums. The few prefix tokens are
multiplied exactly: cls is what is read in the end, through every layer's residual.

Shapes: B cells, N gene tokens of all cells, P prefix tokens per cell, D width, H heads, K head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

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

Pair = tuple[Tensor, Tensor]
"""Genes (N, D) and prefix (B P, D)."""

Project = Callable[..., list[Pair]]
"""Number of a part and dense layers in, their products with its tokens out."""


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
    """Where the tokens of a part lie: the genes of all its cells end to end, then P prefix tokens of each cell.

    A part is a few whole cells, or a piece of a long one, of which the last piece has the prefix tokens.

    Parameters
    ----------
    offsets : (B + 1,) int64
        Of the genes.
    num_prefix
        P.
    lengths : (B,), optional
        Tokens of the whole cells, where this is a piece of one.
    """

    def __init__(self, offsets: Tensor, num_prefix: int, lengths: Tensor | None = None) -> None:
        cells = len(offsets) - 1
        self.genes = Layout.of(offsets)
        self.prefix = Layout.of(torch.arange(cells + 1, device=offsets.device) * num_prefix)
        self.cls = self.genes.num_tokens + self.prefix.offsets[:-1]
        self.lengths = self.genes.lengths + num_prefix if lengths is None else lengths

    @classmethod
    def parts(cls, offsets: Tensor, num_prefix: int, size: int) -> list[Segments]:
        """Take some cells together, or cut a single one into pieces of at most `size` genes."""
        layout = Layout.of(offsets)
        number = -(-layout.num_tokens // size)
        if layout.num_cells != 1 or number < 2:
            return [cls(offsets, num_prefix)]
        lengths = layout.lengths + num_prefix
        cuts = [i * layout.num_tokens // number for i in range(number + 1)]
        sizes = offsets.new_tensor([[0, b - a] for a, b in zip(cuts, cuts[1:], strict=False)])
        last = number - 1
        return [cls(size, num_prefix if i == last else 0, lengths) for i, size in enumerate(sizes)]

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

    def rows(self, cell: int) -> slice:
        """Return where the genes of a cell are."""
        return slice(self.genes.bounds[cell], self.genes.bounds[cell + 1])


def gated(layer: RetentionLayer, parts: list[Segments], project: Project) -> Iterator[Tensor]:
    """Yield what Wo of a layer's retention is given of each part: normed retention times gate, (N + B P, D).

    The first is made when all parts have been seen; `project` is asked for k and v of each, then for q and u.
    """
    retention = layer.retention
    states = []
    for i, part in enumerate(parts):
        k, v = project(i, retention.k_proj, retention.v_proj)
        states.append(part.state([F.relu_(y) for y in k], v, retention.num_heads))
        states = [torch.stack(states).sum(0)] if len(states) > 1 else states
    for i, part in enumerate(parts):
        q, u = project(i, retention.q_proj, retention.u_proj)
        yield norm_gate(part.read([F.relu_(y) for y in q], states[0], retention.num_heads), torch.cat(u))


def from_tokens(x: list[Tensor], parts: list[Segments], multiply: Multiply) -> Project:
    """Return the projections of tokens x, (N + B P, D) of each part."""

    def project(i: int, *dense: nn.Linear) -> list[Pair]:
        genes = parts[i].genes.num_tokens
        if multiply is exactly:
            return [(y[:genes], y[genes:]) for y in exactly(x[i], *dense)]
        return list(zip(multiply(x[i][:genes], *dense), exactly(x[i][genes:], *dense), strict=True))

    return project


def after_retention(layer: RetentionLayer, x: Tensor, gated: Tensor, multiply: Multiply) -> Tensor:
    """Finish a layer on tokens (any, D): Wo, residual, norm, and the whole GLU."""
    (out,) = multiply(gated, layer.retention.o_proj)
    x = layer.norm1(out.add_(x, alpha=layer.alpha))
    u, v = multiply(x, layer.glu.u_proj, layer.glu.v_proj)
    (out,) = multiply(u.mul_(v), layer.glu.o_proj)
    normed: Tensor = layer.norm2(out.add_(x, alpha=layer.alpha))
    return normed


def whole_layer(layer: RetentionLayer, x: Tensor, gated: Tensor, genes: int, multiply: Multiply) -> Tensor:
    """Finish a layer on the tokens of a part, (N + B P, D), of which the first `genes` are genes."""
    if multiply is exactly:
        return after_retention(layer, x, gated, exactly)
    parts = ((slice(genes), multiply), (slice(genes, None), exactly))
    return torch.cat([after_retention(layer, x[part], gated[part], how) for part, how in parts])


def last_layer(layer: RetentionLayer, x: list[Tensor], parts: list[Segments], multiply: Multiply) -> Tensor:
    """Apply the last layer to tokens, (N + B P, D) of each part, for the sake of cls alone: (B, D).

    v is needed of one sum of tokens per head, o = (sum_n (q . k_n) x_n) Wv.
    """
    retention, cls = layer.retention, x[-1][parts[-1].cls]
    q, u = exactly(cls, retention.q_proj, retention.u_proj)
    q = F.relu_(q)
    gathered = x[-1].new_zeros(len(cls), retention.num_heads, x[-1].shape[1])
    for tokens, part in zip(x, parts, strict=True):
        gathered += part.weighted_sum(_seen_by(q, layer, tokens, part, multiply), tokens).to(tokens.dtype)
    v = rearrange(retention.v_proj.weight, "(h k) d -> h k d", h=retention.num_heads)
    o = einsum(gathered, v, "b h d, h k d -> b h k")
    return after_retention(layer, cls, norm_gate(o * parts[-1].scale(o)[:, None, None], u), exactly)


def _seen_by(q: Tensor, layer: RetentionLayer, x: Tensor, shape: Segments, multiply: Multiply) -> Tensor:
    """Return q . k_n of each token and head, (N + B P, H), for one query per cell (B, D).

    On a CPU k is computed only where relu left q above zero, unless it is cheap; a GPU would have to wait for q.
    """
    retention, genes = layer.retention, shape.genes.num_tokens
    heads = retention.num_heads

    def weighed(tokens: Tensor, keys: Tensor, of: Layout) -> Tensor:
        q_of = torch.repeat_interleave(q, of.lengths, dim=0, output_size=len(tokens))
        return F.relu_(keys).mul_(q_of).unflatten(1, (heads, -1)).sum(-1)

    seen = x.new_empty(len(x), heads)
    few, many = x[genes:], x[:genes]
    seen[genes:] = weighed(few, exactly(few, retention.k_proj)[0], shape.prefix)
    if x.device.type != "cpu":
        seen[:genes] = weighed(many, multiply(many, retention.k_proj)[0], shape.genes)
        return seen
    keys = F.relu_(multiply(many, retention.k_proj)[0]) if isinstance(multiply, InBytes) else None
    for cell, row in enumerate(q):
        rows = shape.rows(cell)
        by_head = torch.block_diag(*row.view(heads, -1, 1))  # (D, H): the dimensions of k that each head adds up
        if keys is not None:
            seen[rows] = keys[rows] @ by_head
            continue
        used = row.nonzero()[:, 0]
        weight = retention.k_proj.weight.index_select(0, used)
        seen[rows] = F.relu_(product(x[rows], weight)) @ by_head.index_select(0, used)
    return seen
