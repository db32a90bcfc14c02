"""Softmax attention within each cell of a ragged batch: memory grows with the tokens, not with a cell's square.

Shapes: T tokens of all cells together, H heads, K head dim, B cells.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def ragged_attention(
    q: Tensor, k: Tensor, v: Tensor, *, lengths: list[int], dropout: float = 0.0, nested: bool | None = None
) -> Tensor:
    """Attend among the tokens of each cell, softmax(q k^T / sqrt(K)) v, without masks or padding.

    Parameters
    ----------
    q, k, v : (T, H, K)
        Cells end to end.
    lengths
        Tokens of each cell, B of them, each at least 1.
    dropout
        Rate at which attention weights are dropped.
    nested
        True: one kernel for all cells, on jagged nested tensors. False: a kernel per cell. None: the first on a GPU,
        where launches would outweigh small cells, the second on a CPU.

    Returns
    -------
    (T, H, K)
    """
    if not lengths:
        return torch.empty_like(v)
    return (_nested if (q.is_cuda if nested is None else nested) else _by_cell)(q, k, v, lengths, dropout)


def _by_cell(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], dropout: float) -> Tensor:
    parts = (x.transpose(0, 1)[None].split(lengths, dim=2) for x in (q, k, v))  # (1, H, n, K) of each cell
    out = [F.scaled_dot_product_attention(a, b, c, dropout_p=dropout) for a, b, c in zip(*parts, strict=True)]
    return torch.cat([x[0].transpose(0, 1) for x in out])


def _nested(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], dropout: float) -> Tensor:
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(q.device)
    shortest, longest = min(lengths), max(lengths)
    a, b, c = (
        torch.nested.nested_tensor_from_jagged(
            x.contiguous(), offsets, min_seqlen=shortest, max_seqlen=longest
        ).transpose(1, 2)
        for x in (q, k, v)
    )
    out = F.scaled_dot_product_attention(a, b, c, dropout_p=dropout)  # (B, H, n of the cell, K)
    return out.transpose(1, 2).values()
