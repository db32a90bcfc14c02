"""What follows the read-out of a retention layer: a norm per head, then a gate.

Shapes: N tokens of all cells together, H heads, K width of a head, D = H K.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from cellfm_torch.ops.backend import CompiledOrEager, runs_on

EPS = 1e-12


def srms_norm(x: Tensor, *, eps: float = EPS) -> Tensor:
    """Divide each row of the last axis, of width K, by ``max(||x / sqrt(K)||, eps)``.

    The scale of `x` leaves the result unchanged, so factors before it only serve the range of the number format.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5
    return x / norm.clamp_min(eps)


def _norm_gate(o: Tensor, u: Tensor, eps: float) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(o.dtype, u.dtype), torch.float32)
    normed = rearrange(srms_norm(o.to(dtype), eps=eps), "n h k -> n (h k)")
    return (normed * F.silu(u.to(dtype))).to(u.dtype)


_compiled = CompiledOrEager(_norm_gate)


def norm_gate(o: Tensor, u: Tensor, *, eps: float = EPS) -> Tensor:
    """Return ``srms_norm(o) * silu(u)``, heads merged.

    On a GPU this costs nothing but memory traffic; the compiled and the Triton backend read and write each number once.

    Parameters
    ----------
    o : (N, H, K)
        What the tokens read from their cell's state; usually float32 also where `u` is not.
    u : (N, D)
        The gate before its activation.
    eps
        Smallest norm divided by.

    Returns
    -------
    (N, D), in the dtype of u; computed in float32 at least and rounded once.

    Raises
    ------
    ValueError
        If the shapes do not belong together.
    """
    if o.ndim != 3 or u.shape != (o.shape[0], o.shape[1] * o.shape[2]):
        raise ValueError(f"o has shape {tuple(o.shape)}, u {tuple(u.shape)}: they must be (N, H, K) and (N, H K)")
    name = runs_on(o) if u.dtype != torch.float64 else "eager"
    if name == "triton":
        from cellfm_torch.ops.triton_gate import NormGate

        fused: Tensor = NormGate.apply(o, u, eps)
        return fused
    return (_compiled if name == "compiled" else _norm_gate)(o, u, eps)
