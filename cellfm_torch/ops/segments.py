r"""Two sums over the tokens of one cell, each the adjoint of the other: all of retention is built from them.

Shapes: B cells, N tokens of all cells together, H heads, K and V widths of a head.

* ``outer``: S_b = sum over n in b of w_n a_n (x) b_n, the state of a cell, (B, H, K, V);
* ``apply``: o_n = w_n x_n S_b, the read-out of a token, (N, H, V).

The gradient of one is two calls of the other, no intermediate of size N x K x V exists, and tokens of different cells
never meet in one sum. The weights w_n are 1, or powers of a decay (:class:`cellfm_torch.ops.decay.Fading`). On a GPU
Triton kernels do the sums without weights (:mod:`cellfm_torch.ops.backend`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from cellfm_torch.ops.backend import KERNEL_DTYPES, runs_on
from cellfm_torch.ops.decay import Fading
from cellfm_torch.ops.layout import Layout

DEFAULT_CHUNK = 1024


def accumulator(*dtypes: torch.dtype) -> torch.dtype:
    """Return the dtype of sums: over thousands of tokens they need float32 at least."""
    dtype = dtypes[0]
    for other in dtypes[1:]:
        dtype = torch.promote_types(dtype, other)
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def as_given(x: Tensor) -> AbstractContextManager[object]:
    """Keep autocast from rounding the operands of our products: their dtype was chosen on purpose."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


class Plan(NamedTuple):
    """How a sum over segments is done."""

    layout: Layout
    chunk_size: int = DEFAULT_CHUNK
    fading: Fading | None = None


def _takes_kernels(plan: Plan, x: Tensor, *dtypes: torch.dtype) -> bool:
    """Whether the Triton kernels do this sum: they know no decay, and no chunk either."""
    return plan.fading is None and all(dtype in KERNEL_DTYPES for dtype in dtypes) and runs_on(x) == "triton"


class _Outer(torch.autograd.Function):
    """(N, H, K), (N, H, V) -> (B, H, K, V): sum of outer products within each cell."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, plan: Plan) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.plan = plan
        if _takes_kernels(plan, a, b.dtype):
            from cellfm_torch.ops import triton_kernels

            return triton_kernels.outer(a, b, plan.layout)
        layout, chunk_size, fading = plan
        dtype = accumulator(a.dtype, b.dtype)
        state = a.new_zeros(layout.num_cells, a.shape[1], a.shape[2], b.shape[2], dtype=dtype)
        with as_given(a):
            for piece in layout.pieces(chunk_size):
                part = a[piece.start : piece.end].to(dtype)
                if fading is not None:
                    part = part * fading.of(piece, dtype)
                a_hkn = rearrange(part, "n h k -> h k n")
                b_hnv = rearrange(b[piece.start : piece.end].to(dtype), "n h v -> h n v")
                state[piece.cell].baddbmm_(a_hkn, b_hnv)
        return state

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        a, b = ctx.saved_tensors
        grad_a = _Apply.apply(b, grad.mT, ctx.plan, a.dtype) if ctx.needs_input_grad[0] else None
        grad_b = _Apply.apply(a, grad, ctx.plan, b.dtype) if ctx.needs_input_grad[1] else None
        return grad_a, grad_b, None


class _Apply(torch.autograd.Function):
    """(N, H, K), (B, H, K, V) -> (N, H, V): each token times the state of its cell."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, state: Tensor, plan: Plan, out_dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, state)
        ctx.plan = plan
        if _takes_kernels(plan, x, state.dtype, out_dtype):
            from cellfm_torch.ops import triton_kernels

            return triton_kernels.apply(x, state, plan.layout, out_dtype)
        layout, chunk_size, fading = plan
        dtype = accumulator(x.dtype, state.dtype)
        out = x.new_empty(x.shape[0], x.shape[1], state.shape[3], dtype=out_dtype)
        with as_given(x):
            for piece in layout.pieces(chunk_size):
                part = x[piece.start : piece.end].to(dtype)
                if fading is not None:
                    part = part * fading.of(piece, dtype)
                read = torch.bmm(rearrange(part, "n h k -> h n k"), state[piece.cell].to(dtype))
                out[piece.start : piece.end] = rearrange(read, "h n v -> n h v")
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, state = ctx.saved_tensors
        grad_x = _Apply.apply(grad, state.mT, ctx.plan, x.dtype) if ctx.needs_input_grad[0] else None
        grad_state = _Outer.apply(x, grad, ctx.plan).to(state.dtype) if ctx.needs_input_grad[1] else None
        return grad_x, grad_state, None, None


def outer(a: Tensor, b: Tensor, plan: Plan) -> Tensor:
    """Sum the outer products of each cell: (N, H, K), (N, H, V) -> (B, H, K, V), float32 at least."""
    state: Tensor = _Outer.apply(a, b, plan)
    return state


def apply(x: Tensor, state: Tensor, plan: Plan, dtype: torch.dtype) -> Tensor:
    """Multiply each token by its cell's state: (N, H, K), (B, H, K, V) -> (N, H, V) in `dtype`."""
    out: Tensor = _Apply.apply(x, state, plan, dtype)
    return out
