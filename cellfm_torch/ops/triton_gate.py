"""Triton kernels of the norm per head and the gate: each number is read once and written once, in both passes.

Shapes: N tokens of all cells together, H heads, K width of a head, D = H K; one row is one head of one token.

With z = o / max(||o|| / sqrt(K), eps) and y = z silu(u), the gradients are du = dy z silu'(u) and, where the norm is
above eps, do = (dz - z mean(z dz)) / norm for dz = dy silu(u).
"""

# No `from __future__ import annotations`: Triton reads the annotations.
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from cellfm_torch.ops.triton_kernels import LAUNCH, on_device_of

TILE = 2048
"""Numbers one program works on."""


@triton.jit
def _add(a, b):
    return a + b


@triton.jit
def _forward_kernel(
    o, u, y, rows, eps,
    o_token, o_head, o_dim, u_token, u_dim,
    heads: tl.constexpr, k_dim: tl.constexpr, block: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """Store srms_norm(o) * silu(u) for a block of rows."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    token, head = (row // heads).to(tl.int64)[:, None], (row % heads)[:, None]
    k = tl.arange(0, block_k)[None, :]
    inside = (row < rows)[:, None] & (k < k_dim)
    x = tl.load(o + token * o_token + head * o_head + k * o_dim, inside, 0.0).to(tl.float32)
    gate = tl.load(u + token * u_token + (head * k_dim + k) * u_dim, inside, 0.0).to(tl.float32)
    norm = tl.maximum(tl.sqrt(tl.reduce(x * x, 1, _add) / k_dim), eps)
    out = x / norm[:, None] * (gate / (1 + tl.exp(-gate)))
    tl.store(y + row.to(tl.int64)[:, None] * k_dim + k, out.to(y.dtype.element_ty), inside)


@triton.jit
def _backward_kernel(
    o, u, dy, do, du, rows, eps,
    o_token, o_head, o_dim, u_token, u_dim, dy_token, dy_dim,
    heads: tl.constexpr, k_dim: tl.constexpr, block: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of rows; see the head of this file."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    token, head = (row // heads).to(tl.int64)[:, None], (row % heads)[:, None]
    k = tl.arange(0, block_k)[None, :]
    inside = (row < rows)[:, None] & (k < k_dim)
    x = tl.load(o + token * o_token + head * o_head + k * o_dim, inside, 0.0).to(tl.float32)
    gate = tl.load(u + token * u_token + (head * k_dim + k) * u_dim, inside, 0.0).to(tl.float32)
    grad = tl.load(dy + token * dy_token + (head * k_dim + k) * dy_dim, inside, 0.0).to(tl.float32)
    rms = tl.sqrt(tl.reduce(x * x, 1, _add) / k_dim)
    norm = tl.maximum(rms, eps)[:, None]
    z = x / norm
    sigmoid = 1 / (1 + tl.exp(-gate))
    dz = grad * gate * sigmoid
    shared = tl.reduce(z * dz, 1, _add) / k_dim
    dx = (dz - z * tl.where(rms >= eps, shared, 0.0)[:, None]) / norm
    dgate = grad * z * sigmoid * (1 + gate * (1 - sigmoid))
    place = row.to(tl.int64)[:, None] * k_dim + k
    tl.store(do + place, dx.to(do.dtype.element_ty), inside)
    tl.store(du + place, dgate.to(du.dtype.element_ty), inside)


def _shape(o: Tensor) -> tuple[int, tuple[int], dict[str, int]]:
    """Return rows, grid and tile sizes."""
    rows, k_dim = o.shape[0] * o.shape[1], o.shape[2]
    block_k = triton.next_power_of_2(k_dim)
    block = max(1, TILE // block_k)
    return rows, (triton.cdiv(rows, block),), {"heads": o.shape[1], "k_dim": k_dim, "block": block, "block_k": block_k}


class NormGate(torch.autograd.Function):
    """(N, H, K), (N, D), eps -> (N, D) in the dtype of the second. Has a first derivative only."""

    @staticmethod
    def forward(ctx: Any, o: Tensor, u: Tensor, eps: float) -> Tensor:
        """Launch the forward kernel; keeps its inputs, not the norms."""
        ctx.save_for_backward(o, u)
        ctx.eps = eps
        y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
        if y.numel():
            rows, grid, sizes = _shape(o)
            with on_device_of(o):
                _forward_kernel[grid](o, u, y, rows, eps, *o.stride(), *u.stride(), **sizes, **LAUNCH)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Launch the backward kernel."""
        o, u = ctx.saved_tensors
        grad_o = torch.empty(o.shape, dtype=o.dtype, device=o.device)
        grad_u = torch.empty(u.shape, dtype=u.dtype, device=u.device)
        if u.numel():
            rows, grid, sizes = _shape(o)
            strides = (*o.stride(), *u.stride(), *grad.stride())
            with on_device_of(o):
                _backward_kernel[grid](o, u, grad, grad_o, grad_u, rows, ctx.eps, *strides, **sizes, **LAUNCH)
        return grad_o, grad_u, None
