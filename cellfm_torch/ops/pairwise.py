r"""Retention by pairs, :math:`o = (q k^\top \odot D) v`: quadratic in a cell's tokens, and its map of gene pairs.

Shapes: B cells, N tokens of all cells together, M queries, H heads, K head dim of q and k, V head dim of v; N_b and M_b
tokens and queries of one cell.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor

from cellfm_torch.ops.checks import check_order
from cellfm_torch.ops.decay import Fading, powers
from cellfm_torch.ops.layout import Layout
from cellfm_torch.ops.segments import DEFAULT_CHUNK, Plan, accumulator, apply, as_given


class _Product(torch.autograd.Function):
    """Batched matrix product that autocast leaves alone in both passes."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        with as_given(a):
            return torch.matmul(a, b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return _Product.apply(grads[0], b.mT), _Product.apply(a.mT, grads[0])


def _by_cell(x: Tensor, layout: Layout, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Cut (N, H, K) into (H, N_b, K) per cell."""
    return rearrange(x.to(dtype), "n h k -> h n k").split([last - first for first, last in layout.cells()], dim=1)


def _pair_weights(decay: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """Return D (H, n, n): decay to the power of the distance to an earlier token, 0 for later ones."""
    place = torch.arange(n, device=decay.device)
    by_distance = powers(decay, place).to(dtype)
    return rearrange(by_distance[(place[:, None] - place).clamp_min(0)], "i j h -> h i j").tril()


def parallel_retention(
    q: Tensor, k: Tensor, v: Tensor, before: Tensor | None, layouts: tuple[Layout, Layout], decay: Tensor | None
) -> Tensor:
    """Weigh all pairs of each cell, then all values.

    Parameters
    ----------
    q : (M, H, K)
    k : (N, H, K)
    v : (N, H, V)
    before : (B, H, K, V), optional
        State of what was seen before.
    layouts
        Of the queries; of keys and values.
    decay : (H,) float64, optional
        Given, the order counts: a token sees those up to itself, faded.

    Returns
    -------
    (M, H, V), in the dtype of q.
    """
    dtype = accumulator(q.dtype, k.dtype, v.dtype)
    (q_layout, layout), cells = layouts, []
    queries = q.to(dtype)  # once, so that the two parts of its gradient meet before they are rounded
    parts = (_by_cell(queries, q_layout, dtype), _by_cell(k, layout, dtype), _by_cell(v, layout, dtype))
    for q_hmk, k_hnk, v_hnv in zip(*parts, strict=True):
        weights = _Product.apply(q_hmk, k_hnk.mT)  # (H, M_b, N_b)
        if decay is not None:
            weights = weights * _pair_weights(decay, weights.shape[1], dtype)
        cells.append(_Product.apply(weights, v_hnv))
    out = rearrange(torch.cat(cells, dim=1), "h m v -> m h v")
    if before is not None:
        fading = None if decay is None else Fading(decay, from_start=True)
        out = out + apply(queries, before, Plan(q_layout, DEFAULT_CHUNK, fading), dtype)
    return out.to(q.dtype)


def retention_map(
    q: Tensor,
    k: Tensor,
    *,
    offsets: Tensor | Layout,
    q_offsets: Tensor | Layout | None = None,
    reduce: Literal["mean", "sum"] | None = None,
    causal: bool = False,
    decay: Tensor | None = None,
) -> list[Tensor]:
    """Return how much each query token of a cell takes from each of its tokens: q . k.

    Parameters
    ----------
    q : (M, H, K)
    k : (N, H, K)
    offsets : (B + 1,) int64
        Cell boundaries of k.
    q_offsets : (B + 1,) int64, optional
        Cell boundaries of q where they differ.
    reduce
        ``"mean"`` or ``"sum"`` over heads; a map per head is never stored then, unless there is a decay.
    causal, decay
        As in :func:`cellfm_torch.ops.retention`.

    Returns
    -------
    One tensor per cell, (H, M_b, N_b) or reduced (M_b, N_b), in the dtype of q: quadratic in the cell's tokens.

    Raises
    ------
    ValueError
        For offsets that do not cover the tokens, tensors that do not belong together, or an unknown `reduce`.
    """
    if reduce not in (None, "mean", "sum"):
        raise ValueError(f"reduce must be None, 'mean' or 'sum', got {reduce!r}")
    q_layout, layout, decay = check_order(q, k, offsets, q_offsets, causal, decay)
    dtype = accumulator(q.dtype, k.dtype)
    maps = []
    for q_hmk, k_hnk in zip(_by_cell(q, q_layout, dtype), _by_cell(k, layout, dtype), strict=True):
        if reduce is not None and decay is None:
            weights = _Product.apply(rearrange(q_hmk, "h m k -> m (h k)"), rearrange(k_hnk, "h n k -> (h k) n"))
        else:
            weights = _Product.apply(q_hmk, k_hnk.mT)
            if decay is not None:
                weights = weights * _pair_weights(decay, weights.shape[1], dtype)
            if reduce is not None:
                weights = weights.sum(0)
        maps.append((weights / q.shape[1] if reduce == "mean" else weights).to(q.dtype))
    return maps
