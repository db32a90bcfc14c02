"""Triton kernels of the two sums that retention is made of, over ragged cells.

Shapes: B cells, N tokens of all cells together, H heads, K and V widths of a head, P pieces of cells.

Each program owns one head of one cell (``outer``) or of one piece of a cell (``apply``) and goes through its tokens in
blocks, so that the matrix units see tiles and every token is read once. Tensors come with their strides: slices of a
fused projection and transposed states need no copy. Sums are in float32 and in a fixed order. Nothing here waits for
the device: where the pieces lie comes from the :class:`~cellfm_torch.ops.layout.Layout`.

Only builtins of the Triton language are used, no functions written in it: the interpreter finds those only if it was
chosen before Triton was first imported, by whomever.
"""

# No `from __future__ import annotations`: Triton reads the annotations.
import torch
import triton
import triton.language as tl
from torch import Tensor

from cellfm_torch.ops.layout import Layout

WHOLE = 4096
"""Most tokens of a cell that one program sums up."""
PIECE = 512
"""Tokens that one program reads a state for."""
BLOCK = 64
"""Tokens in a tile."""
LAUNCH = {"enable_fp_fusion": True}
"""Options of every launch: Triton 3.9 warns unless told whether a product and a sum may be rounded together."""


@triton.jit
def _outer_kernel(
    a, b, out, rows, heads,
    row_stride,
    a_token, a_head, a_dim,
    b_token, b_head, b_dim,
    out_cell, out_head,
    k_dim: tl.constexpr, v_dim: tl.constexpr,
    block: tl.constexpr, block_k: tl.constexpr, block_v: tl.constexpr,
    precision: tl.constexpr, widen: tl.constexpr,
):  # fmt: skip
    """out[p, h] = sum of a_n (x) b_n over the tokens of row p."""
    program = tl.program_id(0)
    row, head = (program // heads).to(tl.int64), program % heads
    first, end = tl.load(rows + row * row_stride), tl.load(rows + row * row_stride + 1)
    k = tl.arange(0, block_k)
    v = tl.program_id(1) * block_v + tl.arange(0, block_v)
    total = tl.full((block_k, block_v), 0.0, tl.float32)
    for start in range(first, end, block):
        n = (start + tl.arange(0, block)).to(tl.int64)
        inside = n[:, None] < end
        x = tl.load(a + n[:, None] * a_token + head * a_head + k[None, :] * a_dim, inside & (k < k_dim)[None, :], 0.0)
        y = tl.load(b + n[:, None] * b_token + head * b_head + v[None, :] * b_dim, inside & (v < v_dim)[None, :], 0.0)
        if widen:
            x, y = x.to(tl.float32), y.to(tl.float32)
        total = tl.dot(tl.trans(x), y, total, input_precision=precision)
    place = out + row * out_cell + head * out_head + k[:, None] * v_dim + v[None, :]
    tl.store(place, total, (k < k_dim)[:, None] & (v < v_dim)[None, :])


@triton.jit
def _apply_kernel(
    x, state, out, pieces, heads,
    x_token, x_head, x_dim,
    s_cell, s_head, s_k, s_v,
    out_token, out_head,
    k_dim: tl.constexpr, v_dim: tl.constexpr,
    block: tl.constexpr, block_k: tl.constexpr, block_v: tl.constexpr,
    precision: tl.constexpr,
):  # fmt: skip
    """out[n, h] = x[n, h] @ state[cell of the piece, h] for the tokens of a piece."""
    program = tl.program_id(0)
    piece, head = (program // heads).to(tl.int64), program % heads
    cell, first, end = tl.load(pieces + piece * 3), tl.load(pieces + piece * 3 + 1), tl.load(pieces + piece * 3 + 2)
    k = tl.arange(0, block_k)
    v = tl.program_id(1) * block_v + tl.arange(0, block_v)
    place = state + cell * s_cell + head * s_head + k[:, None] * s_k + v[None, :] * s_v
    matrix = tl.load(place, (k < k_dim)[:, None] & (v < v_dim)[None, :], 0.0).to(tl.float32)
    for start in range(first, end, block):
        n = (start + tl.arange(0, block)).to(tl.int64)
        inside = n[:, None] < end
        tile = tl.load(
            x + n[:, None] * x_token + head * x_head + k[None, :] * x_dim, inside & (k < k_dim)[None, :], 0.0
        )
        read = tl.dot(tile.to(tl.float32), matrix, input_precision=precision)
        where = out + n[:, None] * out_token + head * out_head + v[None, :]
        tl.store(where, read.to(out.dtype.element_ty), inside & (v < v_dim)[None, :])


@triton.jit
def _add_kernel(parts, out, bounds, width, block: tl.constexpr):
    """out[b] = sum of parts[bounds[b]:bounds[b + 1]], rows of `width` numbers."""
    cell = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * block + tl.arange(0, block)
    total = tl.full((block,), 0.0, tl.float32)
    for part in range(tl.load(bounds + cell), tl.load(bounds + cell + 1)):
        total += tl.load(parts + part * width + i, i < width, 0.0)
    tl.store(out + cell * width + i, total, i < width)


INTERPRETED: bool = not isinstance(_outer_kernel, triton.JITFunction)
"""Whether TRITON_INTERPRET was set when this file was imported."""


def _tile(width: int) -> int:
    """Return the smallest tile that holds a head's width: matrix units want 16 at least and powers of two."""
    return max(16, 1 << (width - 1).bit_length())


def _precision(*dtypes: torch.dtype) -> str:
    """Return how float32 tiles are multiplied.

    Half precision beside float32 sums takes three products of TF32 parts, which lose nothing of it. Float32 follows
    :func:`torch.get_float32_matmul_precision`: in full unless TF32 was allowed.
    """
    if any(dtype != torch.float32 for dtype in dtypes):
        return "tf32x3"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def on_device_of(x: Tensor) -> torch.cuda.device:
    """Launch on the device of `x`, which need not be the current one; nothing to do on a CPU."""
    return torch.cuda.device(x.device if x.is_cuda else -1)


def outer(a: Tensor, b: Tensor, layout: Layout) -> Tensor:
    """Sum the outer products of each cell: (N, H, K), (N, H, V) -> (B, H, K, V) float32."""
    (_, heads, k_dim), v_dim = a.shape, b.shape[2]
    state = a.new_empty(layout.num_cells, heads, k_dim, v_dim, dtype=torch.float32)
    if state.numel() == 0:
        return state
    block_v = min(_tile(v_dim), 64)
    whole = layout.longest <= WHOLE
    table = layout.offsets if whole else layout.table(WHOLE)[:, 1:]
    parts = state if whole else state.new_empty(len(table), heads, k_dim, v_dim)
    same_half = a.dtype == b.dtype != torch.float32
    grid = (len(parts) * heads, triton.cdiv(v_dim, block_v))
    with on_device_of(a):
        _outer_kernel[grid](
            a, b, parts, table, heads, table.stride(0), *a.stride(), *b.stride(), *parts.stride()[:2],
            k_dim=k_dim, v_dim=v_dim, block=BLOCK, block_k=_tile(k_dim), block_v=block_v,
            precision=_precision(a.dtype, b.dtype), widen=INTERPRETED or not same_half, **LAUNCH,
        )  # fmt: skip
        if not whole:
            pieces = (layout.lengths + (WHOLE - 1)) // WHOLE
            bounds = torch.cat([pieces.new_zeros(1), pieces.cumsum(0)])
            width = heads * k_dim * v_dim
            _add_kernel[(len(state), triton.cdiv(width, 1024))](parts, state, bounds, width, block=1024, **LAUNCH)
    return state


def apply(x: Tensor, state: Tensor, layout: Layout, dtype: torch.dtype) -> Tensor:
    """Multiply each token by its cell's state: (N, H, K), (B, H, K, V) -> (N, H, V) in `dtype`."""
    (tokens, heads, k_dim), v_dim = x.shape, state.shape[3]
    out = x.new_empty(tokens, heads, v_dim, dtype=dtype)
    if out.numel() == 0:
        return out
    block_v, pieces = min(_tile(v_dim), 64), layout.table(PIECE)
    with on_device_of(x):
        _apply_kernel[(len(pieces) * heads, triton.cdiv(v_dim, block_v))](
            x, state, out, pieces, heads, *x.stride(), *state.stride(), *out.stride()[:2],
            k_dim=k_dim, v_dim=v_dim, block=BLOCK, block_k=_tile(k_dim), block_v=block_v,
            precision=_precision(x.dtype, state.dtype), **LAUNCH,
        )  # fmt: skip
    return out
