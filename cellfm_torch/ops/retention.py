r"""Retention over ragged cells: :math:`o = q (k^\top v)`, bidirectional, without decay or softmax; or RetNet's.

Shapes: B cells, N tokens of all cells together, M queries, H heads, K head dim of q and k, V head dim of v.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from cellfm_torch.ops.causal import Scan, causal_retention
from cellfm_torch.ops.checks import check_chunk, check_order, check_pair
from cellfm_torch.ops.decay import check_same_decay
from cellfm_torch.ops.layout import Layout
from cellfm_torch.ops.pairwise import parallel_retention, retention_map
from cellfm_torch.ops.recurrent import recurrent_retention
from cellfm_torch.ops.segments import DEFAULT_CHUNK, Plan, apply, outer
from cellfm_torch.ops.state import RetentionState, retention_state

__all__ = ["MODES", "RetentionState", "retention", "retention_map", "retention_state"]

Mode = Literal["chunked", "parallel", "recurrent"]
MODES: tuple[Mode, ...] = get_args(Mode)


def retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    offsets: Tensor | Layout,
    q_offsets: Tensor | Layout | None = None,
    state: RetentionState | None = None,
    mode: str = "chunked",
    chunk_size: int = DEFAULT_CHUNK,
    causal: bool = False,
    decay: Tensor | None = None,
) -> Tensor:
    r"""Let every query token gather the values of its cell, weighted by q . k.

    ERetNet's retention (CellFM, Nat. Commun. 16, 2025): all tokens of a cell see each other, order does not matter,
    nothing decays. With `causal` RetNet's (arXiv 2307.08621), whose three forms the modes are: token n gathers from the
    tokens m up to itself, weighted by q_n . k_m decay ** (n - m).

    Parameters
    ----------
    q : (M, H, K)
        Queries; M = N unless `q_offsets` says that they belong to other tokens.
    k : (N, H, K)
    v : (N, H, V)
    offsets : (B + 1,) int64
        Cell boundaries of k and v.
    q_offsets : (B + 1,) int64, optional
        Cell boundaries of q where they differ (cluster queries, the cls token alone).
    state
        What was seen of the same cells before; added to theirs, or continued where the order counts. Left as it is.
    mode
        ``"chunked"``: linear, the cell's state over chunks of tokens; beyond in- and outputs it needs K x V per head
        and cell, and one chunk, in both passes. ``"parallel"``: by pairs, quadratic in a cell's tokens.
        ``"recurrent"``: one token of every cell per step. All give the same.
    chunk_size
        Most tokens handled at once in chunked mode.
    causal
        Whether a token sees only itself and those before it in its cell.
    decay : (H,), optional
        With `causal`: factor per head and token of distance, in (0, 1]; None is 1. A constant: it gets no gradient.

    Returns
    -------
    (M, H, V), in the dtype of q. Half-precision inputs accumulate in float32.

    Raises
    ------
    ValueError
        For offsets that do not cover the tokens, tensors that do not belong together, a decay without `causal`, or
        `q_offsets` with it.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}; got {mode!r}")
    check_chunk(chunk_size)
    check_pair(k, v)
    q_layout, layout, rate = check_order(q, k, offsets, q_offsets, causal, decay)
    before = None if state is None else _tensor_of(state, (layout.num_cells, *k.shape[1:], v.shape[2]), rate)
    if not (len(q) and len(k)):
        mode = "chunked"  # nothing to weigh: its gradients are defined for no tokens too
    if mode == "parallel":
        return parallel_retention(q, k, v, before, (q_layout, layout), rate)
    if mode == "recurrent":
        return recurrent_retention(q, k, v, before, (q_layout, layout), rate)
    if rate is not None:
        return causal_retention(q, k, v, before, Scan(layout, chunk_size, rate))
    seen = outer(k, v, Plan(layout, chunk_size))
    return apply(q, seen if before is None else seen + before, Plan(q_layout, chunk_size), q.dtype)


def _tensor_of(state: RetentionState, shape: tuple[int, ...], decay: Tensor | None) -> Tensor:
    """Return the tensor of a state that belongs to these cells and this decay."""
    if state.tensor.shape != shape:
        raise ValueError(f"state has shape {tuple(state.tensor.shape)}, these cells need {tuple(shape)}")
    check_same_decay(state.decay, decay)
    return state.tensor
