r"""RetNet's causal retention in chunks: :math:`o_n = \sum_{m \le n} \gamma^{n-m} (q_n k_m) v_m`, linear in the tokens.

Shapes: B cells, N tokens of all cells together, H heads, K head dim of q and k, V head dim of v, n tokens of a piece.

Within a piece of a cell the sum is taken by pairs, all earlier pieces come through a K x V state that is carried along.
Each gradient is such a sum itself, two of the three with time running backwards, so nothing but the inputs is kept for
the backward pass. All powers of the decay have exponents of at least 0: nothing overflows however long the cell.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from cellfm_torch.ops.decay import Fading, powers
from cellfm_torch.ops.layout import Layout
from cellfm_torch.ops.segments import Plan, accumulator, as_given, outer

MOST_PAIRED = 128
"""Longest piece: the pairs within it cost as much as the state where n is about K, and n x n numbers per head."""


class Scan(NamedTuple):
    """How a causal sum is done."""

    layout: Layout
    chunk_size: int
    decay: Tensor
    """(H,) float64."""
    backwards: bool = False
    """Whether a token sees those after it rather than those before."""

    def reversed(self) -> Scan:
        """Return the same with time running the other way."""
        return self._replace(backwards=not self.backwards)


class _Weights:
    """Powers of the decay in a piece of n tokens, for all pieces of a scan."""

    def __init__(self, scan: Scan, size: int, dtype: torch.dtype) -> None:
        self.backwards = scan.backwards
        self.powers = powers(scan.decay, torch.arange(size + 1, device=scan.decay.device)).to(dtype)  # (size + 1, H)
        place = torch.arange(size, device=scan.decay.device)
        distance = place[:, None] - place[None, :]
        pairs = rearrange(self.powers[distance.clamp_min(0)], "i j h -> h i j").tril()
        self.pairs = pairs.mT if scan.backwards else pairs

    def of(self, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return weights of pairs (H, n, n), of the carried state in each token's sum and of each token in it.

        The latter two are (H, n, 1); last, what the state itself fades by over the piece, (H, 1, 1).
        """
        carried, carry = self.powers[1 : n + 1], self.powers[:n].flip(0)
        if self.backwards:
            carried, carry = carried.flip(0), carry.flip(0)
        return self.pairs[:, :n, :n], carried.T[..., None], carry.T[..., None], self.powers[n][:, None, None]


class _Causal(torch.autograd.Function):
    """(N, H, K), (N, H, K), (N, H, V), (B, H, K, V) or None -> (N, H, V)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, before: Tensor | None, scan: Scan, out_dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, before)
        ctx.scan = scan
        dtype = accumulator(q.dtype, k.dtype, v.dtype)
        size = max(1, min(scan.chunk_size, MOST_PAIRED, scan.layout.longest))
        weights = _Weights(scan, size, dtype)
        out = q.new_empty(*v.shape, dtype=out_dtype)
        pieces = list(scan.layout.pieces(size))
        cell, carried = -1, v.new_empty(0)
        with as_given(q):
            for piece in reversed(pieces) if scan.backwards else pieces:
                if piece.cell != cell:
                    cell = piece.cell
                    empty = v.new_zeros(v.shape[1], k.shape[2], v.shape[2], dtype=dtype)
                    carried = empty if before is None else before[cell].to(dtype)
                part = slice(piece.start, piece.end)
                q_hnk, k_hnk, v_hnv = (rearrange(x[part].to(dtype), "n h k -> h n k") for x in (q, k, v))
                pairs, of_carried, into_carry, fade = weights.of(piece.end - piece.start)
                o = torch.bmm(torch.bmm(q_hnk, k_hnk.mT).mul_(pairs), v_hnv)
                o.baddbmm_(q_hnk * of_carried, carried)
                out[part] = rearrange(o, "h n v -> n h v")
                carried = torch.baddbmm(carried * fade, (k_hnk * into_carry).mT, v_hnv)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        q, k, v, before = ctx.saved_tensors
        scan, needed = ctx.scan, ctx.needs_input_grad
        grad_q = grad_k = grad_v = grad_before = None
        if needed[0]:
            grad_q = _Causal.apply(grad, v, k, None if before is None else before.mT, scan, q.dtype)
        if needed[1]:
            grad_k = _Causal.apply(v, grad, q, None, scan.reversed(), k.dtype)
        if needed[2]:
            grad_v = _Causal.apply(k, q, grad, None, scan.reversed(), v.dtype)
        if before is not None and needed[3]:
            assert not scan.backwards
            plan = Plan(scan.layout, scan.chunk_size, Fading(scan.decay, from_start=True))
            grad_before = outer(q, grad, plan).to(before.dtype)
        return grad_q, grad_k, grad_v, grad_before, None, None


def causal_retention(q: Tensor, k: Tensor, v: Tensor, before: Tensor | None, scan: Scan) -> Tensor:
    """Let every token gather the values of its cell's tokens up to itself; see :func:`cellfm_torch.ops.retention`.

    Parameters
    ----------
    q, k : (N, H, K)
    v : (N, H, V)
    before : (B, H, K, V), optional
        State of what came before the cells' first tokens.
    scan
        Layout, decay and the most tokens handled at once.

    Returns
    -------
    (N, H, V), in the dtype of q.
    """
    out: Tensor = _Causal.apply(q, k, v, before, scan, q.dtype)
    return out
