"""FAVOR+: attention whose softmax is replaced by positive random features, linear in the number of tokens.

Source: Choromanski et al., Rethinking Attention with Performers, ICLR 2021 (arXiv 2009.14794).
Shapes: B cells, H heads, P positions, K head dim, M random features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cellfm_torch.ops.linear import linear

FLOOR = 1e-4
"""Added to every feature, so that no denominator is 0. It is why a maximum does not cancel, and must be the cell's."""


def draw_projection(num_features: int, head_dim: int, *, device: torch.device | None = None) -> Tensor:
    """Draw a projection (M, K): blocks of K orthogonal directions, each row as long as a row of Gaussian numbers."""
    if num_features < 1:
        raise ValueError(f"num_features={num_features}: a projection needs at least one")
    blocks = -(-num_features // head_dim)
    directions = [torch.linalg.qr(torch.randn(head_dim, head_dim, device=device))[0].T for _ in range(blocks)]
    lengths = torch.randn(num_features, head_dim, device=device).norm(dim=1, keepdim=True)
    return torch.cat(directions)[:num_features] * lengths


def _features(x: Tensor, projection: Tensor, *, over: tuple[int, ...]) -> Tensor:
    """Return exp(x.w - |x|^2 / 2 - max x.w) + FLOOR, (B, H, P, M), x divided by K^(1/4).

    The factor M^(-1/2) of the paper is left out: it divides out of the attention.

    Parameters
    ----------
    x : (B, H, P, K)
    projection : (M, K)
    over
        Axes that the maximum is taken over, of x.w alone.
    """
    x = x * x.shape[-1] ** -0.25
    logits = linear(x, projection)  # (B, H, P, M)
    # The maximum only keeps exp in range; no gradient belongs to it.
    shift = x.square().sum(-1, keepdim=True) / 2 + logits.detach().amax(over, keepdim=True)
    if torch.is_grad_enabled() and logits.requires_grad:
        return torch.exp(logits - shift) + FLOOR
    return logits.sub_(shift).exp_().add_(FLOOR)


def favor_attention(q: Tensor, k: Tensor, v: Tensor, projection: Tensor) -> Tensor:
    """Approximate softmax attention among all positions of a cell; each cell's result depends on that cell alone.

    Features of queries are relative to the maximum of their own token and head, those of keys to the maximum of their
    cell (over heads, positions and features).

    Parameters
    ----------
    q, k, v : (B, H, P, K)
        In half precision everything is summed up in float32.
    projection : (M, K)
        As :func:`draw_projection` returns it; the same for all heads. It gets no gradient.

    Returns
    -------
    (B, H, P, K)
    """
    dtype = torch.promote_types(v.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        w = projection.to(dtype)
        keys = _features(k.to(dtype), w, over=(1, 2, 3))
        state = keys.mT @ v.to(dtype)  # (B, H, M, K)
        total = keys.sum(2)  # (B, H, M)
        del keys
        queries = _features(q.to(dtype), w, over=(3,))
        out = (queries @ state) / (queries @ total[..., None])
    return out.to(v.dtype)
