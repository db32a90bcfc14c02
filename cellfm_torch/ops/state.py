"""What a query needs to know of the tokens of a cell, whenever and wherever these were seen.

Shapes: B cells, N tokens of all cells together, H heads, K head dim of q and k, V head dim of v.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cellfm_torch.ops.checks import check_chunk, check_pair
from cellfm_torch.ops.decay import Fading, check_decay_shape, check_same_decay, checked_decay, powers
from cellfm_torch.ops.layout import Layout
from cellfm_torch.ops.segments import DEFAULT_CHUNK, Plan, accumulator, apply, outer


class RetentionState:
    """One K x V matrix per cell and head: the sum of the outer products of keys and values.

    Sums have no order, so genes may arrive one at a time, from several files or from several processes, and merging is
    addition. With a decay there is an order: a token weighs decay ** (number of tokens after it).

    Attributes
    ----------
    tensor : (B, H, K, V)
        float32, or float64 for float64 inputs; half precision accumulates in float32.
    decay : (H,) or None
        Factor of what was seen, per head and further token; None is 1.
    tokens : (B,) int64 or None
        How many tokens were seen. None where unknown: then this state cannot be appended to one with a decay.
    """

    def __init__(self, tensor: Tensor, *, decay: Tensor | None = None, tokens: Tensor | None = None) -> None:
        if tensor.ndim != 4:
            raise ValueError(f"the state has shape {tuple(tensor.shape)}; it must be (cells, heads, K, V)")
        self.tensor = tensor
        if decay is not None:
            check_decay_shape(decay, tensor.shape[1])
        self.decay = decay
        self.tokens = tokens

    @classmethod
    def empty(
        cls,
        cells: int,
        heads: int,
        key_dim: int,
        value_dim: int | None = None,
        *,
        decay: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> RetentionState:
        """Return the state of cells of which nothing was seen; `value_dim` is `key_dim` unless given."""
        tensor = torch.zeros(cells, heads, key_dim, value_dim or key_dim, dtype=accumulator(dtype), device=device)
        decay = None if decay is None else checked_decay(decay, heads, tensor.device)
        return cls(tensor, decay=decay, tokens=torch.zeros(cells, dtype=torch.int64, device=device))

    def update(
        self, k: Tensor, v: Tensor, *, offsets: Tensor | Layout | None = None, chunk_size: int = DEFAULT_CHUNK
    ) -> RetentionState:
        """See further tokens of the same cells; changes this state and returns it.

        Gradients flow through: the tensor is replaced, not written into.

        Parameters
        ----------
        k : (N, H, K)
        v : (N, H, V)
        offsets : (B + 1,) int64, optional
            Cell boundaries; without them one token per cell, N = B.
        chunk_size
            Most tokens handled at once.

        Raises
        ------
        ValueError
            If the tokens are of other cells, heads or widths.
        """
        check_pair(k, v)
        if offsets is None:
            tensor = k.to(self.tensor.dtype)[..., :, None] * v.to(self.tensor.dtype)[..., None, :]
            seen = RetentionState(
                tensor, decay=self.decay, tokens=torch.ones(len(k), dtype=torch.int64, device=k.device)
            )
        else:
            seen = _seen(k, v, Layout.of(offsets), self.decay, chunk_size)
        merged = self.merge(seen)
        self.tensor, self.tokens = merged.tensor, merged.tokens
        return self

    def merge(self, other: RetentionState) -> RetentionState:
        """Return the state of all tokens of both; with a decay, those of `other` came later.

        Raises
        ------
        ValueError
            If the two are of other cells, heads, widths or decays.
        """
        if self.tensor.shape != other.tensor.shape:
            raise ValueError(
                f"state has shape {tuple(self.tensor.shape)}, these cells {tuple(other.tensor.shape)}; they must agree"
            )
        check_same_decay(self.decay, other.decay)
        earlier = self.tensor
        if self.decay is not None:
            if other.tokens is None:
                raise ValueError("the later state does not know its tokens; with a decay, give RetentionState(tokens=)")
            earlier = earlier * powers(self.decay, other.tokens).to(earlier.dtype)[..., None, None]
        known = self.tokens is not None and other.tokens is not None
        tokens = self.tokens + other.tokens if known else None  # type: ignore[operator]
        return RetentionState(earlier + other.tensor, decay=self.decay, tokens=tokens)

    def read(self, q: Tensor, *, offsets: Tensor | Layout | None = None, chunk_size: int = DEFAULT_CHUNK) -> Tensor:
        """Read the state of each token's cell: o_n = q_n S_b.

        Parameters
        ----------
        q : (N, H, K)
        offsets : (B + 1,) int64, optional
            Cell boundaries of the queries; without them one query per cell, N = B.
        chunk_size
            Most tokens handled at once.

        Returns
        -------
        (N, H, V), in the dtype of the state.

        Raises
        ------
        ValueError
            If the offsets do not cover the queries, or the state is of other cells, heads or widths.
        """
        self.check_query(q, self.tensor.shape[0] if offsets is None else Layout.of(offsets).num_cells)
        if offsets is None:
            if len(q) != len(self.tensor):
                raise ValueError(f"q has {len(q)} tokens, the state {len(self.tensor)} cells; give offsets")
            return (q.to(self.tensor.dtype)[..., None] * self.tensor).sum(-2)
        layout = Layout.of(offsets)
        layout.check("q", q)
        check_chunk(chunk_size)
        return apply(q, self.tensor, Plan(layout, chunk_size), self.tensor.dtype)

    def check_query(self, q: Tensor, num_cells: int) -> None:
        """Refuse queries of other heads, widths or cells."""
        if q.ndim != 3 or q.shape[1:] != self.tensor.shape[1:3]:
            heads, width = self.tensor.shape[1:3]
            raise ValueError(f"q has shape {tuple(q.shape)}, the state needs (tokens, {heads}, {width})")
        if num_cells != self.tensor.shape[0]:
            raise ValueError(f"offsets name {num_cells} cells, the state has {self.tensor.shape[0]}")


def retention_state(
    k: Tensor,
    v: Tensor,
    *,
    offsets: Tensor | Layout,
    decay: Tensor | None = None,
    chunk_size: int = DEFAULT_CHUNK,
) -> RetentionState:
    """Sum the outer products of keys and values over each cell.

    Parameters
    ----------
    k : (N, H, K)
    v : (N, H, V)
    offsets : (B + 1,) int64
        Cell boundaries, rising from 0 to N. A cell may be empty: its state is zero.
    decay : (H,), optional
        In (0, 1]: a token weighs decay ** (number of tokens of its cell after it).
    chunk_size
        Most tokens handled at once; the memory used beyond the state.

    Returns
    -------
    RetentionState

    Raises
    ------
    ValueError
        If the offsets do not cover the tokens, or k and v differ in tokens or heads.
    """
    check_pair(k, v)
    decay = None if decay is None else checked_decay(decay, k.shape[1], k.device)
    return _seen(k, v, Layout.of(offsets), decay, chunk_size)


def _seen(k: Tensor, v: Tensor, layout: Layout, decay: Tensor | None, chunk_size: int) -> RetentionState:
    """Sum keys and values that belong together, with a decay that was checked."""
    layout.check("k", k)
    check_chunk(chunk_size)
    fading = None if decay is None else Fading(decay, from_start=False)
    return RetentionState(outer(k, v, Plan(layout, chunk_size, fading)), decay=decay, tokens=layout.lengths)
