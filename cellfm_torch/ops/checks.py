"""What queries, keys, values and their order must agree in.

Shapes: B cells, N tokens of all cells together, M queries, H heads, K head dim of q and k, V head dim of v.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cellfm_torch.ops.decay import checked_decay
from cellfm_torch.ops.layout import Layout


def check_pair(k: Tensor, v: Tensor) -> None:
    """Refuse keys and values that do not belong together."""
    if k.ndim != 3 or v.ndim != 3 or k.shape[:2] != v.shape[:2]:
        raise ValueError(f"k has shape {tuple(k.shape)}, v {tuple(v.shape)}: tokens and heads must agree")


def check_chunk(chunk_size: int) -> None:
    """Refuse a chunk without tokens."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")


def check_order(
    q: Tensor,
    k: Tensor,
    offsets: Tensor | Layout,
    q_offsets: Tensor | Layout | None,
    causal: bool,
    decay: Tensor | None,
) -> tuple[Layout, Layout, Tensor | None]:
    """Return the layouts of q and of k, and the decay: None where order does not count, (H,) where it does.

    Raises
    ------
    ValueError
        For tensors or forms that do not belong together.
    """
    if decay is not None and not causal:
        raise ValueError("decay counts tokens back in time: it needs causal=True")
    if causal and q_offsets is not None:
        raise ValueError("causal retention has one order of tokens: it takes no q_offsets")
    layout = Layout.of(offsets)
    q_layout = layout if q_offsets is None else Layout.of(q_offsets)
    layout.check("k", k)
    q_layout.check("q", q)
    if q.shape[1:] != k.shape[1:]:
        raise ValueError(f"q has shape {tuple(q.shape)}, k {tuple(k.shape)}: heads and widths must agree")
    if q_layout.num_cells != layout.num_cells:
        raise ValueError(f"q_offsets name {q_layout.num_cells} cells, offsets {layout.num_cells}")
    if not causal:
        return q_layout, layout, None
    if decay is None:
        return q_layout, layout, torch.ones(q.shape[1], dtype=torch.float64, device=q.device)
    return q_layout, layout, checked_decay(decay, q.shape[1], q.device)
