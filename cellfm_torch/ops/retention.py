r"""Retention over ragged cells: :math:`o = q (k^\top v)`, bidirectional, without decay or softmax.

Shapes: B cells, N tokens of all cells together, H heads, K head dim of q and k, V head dim of v.

Everything here is built from two sums over the tokens of one cell, each the adjoint of the other:

* ``outer``: S_b = sum over n in b of a_n (x) b_n, the state of a cell, (B, H, K, V);
* ``apply``: o_n = x_n S_b, the read-out of a token, (N, H, V).

so the gradient of one is two calls of the other, no intermediate of size N x K x V exists, and tokens of different
cells never meet in one sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from einops import rearrange
from torch import Tensor

DEFAULT_CHUNK = 1024
MODES = ("chunked",)


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums: over thousands of tokens they need float32 at least."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _as_given(x: Tensor) -> AbstractContextManager[object]:
    """Keep autocast from rounding the operands of our products: their dtype was chosen on purpose."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _chunks(offsets: list[int], chunk_size: int) -> Iterator[tuple[int, int, int]]:
    """Yield (cell, first token, end token) for pieces of at most `chunk_size` tokens of one cell."""
    for cell, (first, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        for start in range(first, end, chunk_size):
            yield cell, start, min(start + chunk_size, end)


class _Outer(torch.autograd.Function):
    """(N, H, K), (N, H, V) -> (B, H, K, V): sum of outer products within each cell."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, offsets: list[int], chunk_size: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(a, b)
        ctx.layout = offsets, chunk_size
        dtype = _accumulator(torch.promote_types(a.dtype, b.dtype))
        state = a.new_zeros(len(offsets) - 1, a.shape[1], a.shape[2], b.shape[2], dtype=dtype)
        with _as_given(a):
            for cell, start, end in _chunks(offsets, chunk_size):
                a_hkn = rearrange(a[start:end].to(dtype), "n h k -> h k n")
                b_hnv = rearrange(b[start:end].to(dtype), "n h v -> h n v")
                state[cell].baddbmm_(a_hkn, b_hnv)
        return state

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        a, b = ctx.saved_tensors
        grad_a = _Apply.apply(b, grad.mT, *ctx.layout).to(a.dtype) if ctx.needs_input_grad[0] else None
        grad_b = _Apply.apply(a, grad, *ctx.layout).to(b.dtype) if ctx.needs_input_grad[1] else None
        return grad_a, grad_b, None, None


class _Apply(torch.autograd.Function):
    """(N, H, K), (B, H, K, V) -> (N, H, V): each token times the state of its cell."""

    @staticmethod
    def forward(ctx, x: Tensor, state: Tensor, offsets: list[int], chunk_size: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, state)
        ctx.layout = offsets, chunk_size
        out = x.new_empty(x.shape[0], x.shape[1], state.shape[3], dtype=state.dtype)
        with _as_given(x):
            for cell, start, end in _chunks(offsets, chunk_size):
                x_hnk = rearrange(x[start:end].to(state.dtype), "n h k -> h n k")
                out[start:end] = rearrange(torch.bmm(x_hnk, state[cell]), "h n v -> n h v")
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, state = ctx.saved_tensors
        grad_x = _Apply.apply(grad, state.mT, *ctx.layout).to(x.dtype) if ctx.needs_input_grad[0] else None
        grad_state = _Outer.apply(x, grad, *ctx.layout) if ctx.needs_input_grad[1] else None
        return grad_x, grad_state, None, None


class RetentionState:
    """What a query needs to know of a cell: one K x V matrix per cell and head.

    Attributes
    ----------
    tensor : (B, H, K, V)
        float32, or float64 for float64 inputs; half precision accumulates in float32.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def read(self, q: Tensor, *, offsets: Tensor, chunk_size: int = DEFAULT_CHUNK) -> Tensor:
        """Read the state of each token's cell: o_n = q_n S_b.

        Parameters
        ----------
        q : (N, H, K)
        offsets : (B + 1,) int64
            Cell boundaries of the queries.
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
        cells = _check_layout("q", q, offsets, chunk_size)
        if q.shape[1:] != self.tensor.shape[1:3]:
            heads, width = self.tensor.shape[1:3]
            raise ValueError(f"q has shape {tuple(q.shape)}, the state needs (tokens, {heads}, {width})")
        if len(cells) - 1 != self.tensor.shape[0]:
            raise ValueError(f"offsets name {len(cells) - 1} cells, the state has {self.tensor.shape[0]}")
        return _Apply.apply(q, self.tensor, cells, chunk_size)


def _check_layout(name: str, x: Tensor, offsets: Tensor, chunk_size: int) -> list[int]:
    """Return the offsets as a list, having checked that they cover `x`, of three dimensions."""
    if x.ndim != 3:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be (tokens, heads, width)")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    if offsets.ndim != 1 or offsets.is_floating_point():
        raise ValueError(
            f"offsets must be whole numbers of shape (cells + 1,), got {offsets.dtype} {tuple(offsets.shape)}"
        )
    cells = offsets.tolist()
    if (
        not cells
        or cells[0] != 0
        or cells[-1] != x.shape[0]
        or any(a > b for a, b in zip(cells, cells[1:], strict=False))
    ):
        raise ValueError(
            f"offsets must rise from 0 to {x.shape[0]}, the number of tokens of {name}; got {cells[:3]} ..."
        )
    return cells


def retention_state(k: Tensor, v: Tensor, *, offsets: Tensor, chunk_size: int = DEFAULT_CHUNK) -> RetentionState:
    """Sum the outer products of keys and values over each cell.

    Parameters
    ----------
    k : (N, H, K)
    v : (N, H, V)
    offsets : (B + 1,) int64
        Cell boundaries, rising from 0 to N. A cell may be empty: its state is zero.
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
    if k.ndim != 3 or v.ndim != 3 or k.shape[:2] != v.shape[:2]:
        raise ValueError(f"k has shape {tuple(k.shape)}, v {tuple(v.shape)}: tokens and heads must agree")
    return RetentionState(_Outer.apply(k, v, _check_layout("k", k, offsets, chunk_size), chunk_size))


def retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    offsets: Tensor,
    q_offsets: Tensor | None = None,
    state: RetentionState | None = None,
    mode: str = "chunked",
    chunk_size: int = DEFAULT_CHUNK,
    causal: bool = False,
    decay: Tensor | None = None,
) -> Tensor:
    """Let every query token gather the values of its cell, weighted by q . k.

    ERetNet's retention (CellFM, Nat. Commun. 16, 2025): all tokens of a cell see each other, order does not matter,
    nothing decays. Linear in the number of tokens.

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
        What was seen of the same cells before; added to theirs.
    mode
        ``"chunked"``: the cell's state first, then the read-out, both over chunks of tokens.
    chunk_size
        Most tokens handled at once.
    causal, decay
        RetNet's order-dependent forms; not ERetNet's, and not available in this mode.

    Returns
    -------
    (M, H, V), in the dtype of q. Half-precision inputs accumulate in float32.

    Raises
    ------
    ValueError
        For offsets that do not cover the tokens, or a form this mode does not have.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    if causal or decay is not None:
        raise ValueError(f"causal retention and decay are not available in mode {mode!r}")
    seen = retention_state(k, v, offsets=offsets, chunk_size=chunk_size)
    if state is not None:
        if state.tensor.shape != seen.tensor.shape:
            raise ValueError(f"state has shape {tuple(state.tensor.shape)}, these cells {tuple(seen.tensor.shape)}")
        seen = RetentionState(seen.tensor + state.tensor)
    return seen.read(q, offsets=offsets if q_offsets is None else q_offsets, chunk_size=chunk_size).to(q.dtype)
