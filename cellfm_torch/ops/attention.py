"""Softmax attention within each cell of a ragged batch: memory grows with the tokens, not with a cell's square.

Shapes: T tokens of all cells together, H heads, K head dim, B cells.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cellfm_torch.ops.linear import _takes_onednn, product

QUERIES = 512
"""Queries of one head that are worked on at once: their scores stay in a processor's cache."""
MOST_TOKENS = 2048
"""Of cells whose heads are products of their own; in longer ones several threads would meet too often."""


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
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    own_products = not dropout and not learns and _takes_onednn(q)
    out = []
    for a, b, c in zip(*(x.split(lengths) for x in (q, k, v)), strict=True):
        out.append(_by_head(a, b, c) if own_products and len(a) <= MOST_TOKENS else _fused(a, b, c, dropout))
    return torch.cat(out)


def _fused(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Attend within one cell of n tokens, (n, H, K), by PyTorch's own kernel."""
    a, b, c = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(a, b, c, dropout_p=dropout)[0].transpose(0, 1)


def _by_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend within one cell of n tokens, (n, H, K), head by head with oneDNN's products.

    They run at 1.6 times the rate of PyTorch's own kernel on an AMD processor, whose products are MKL's.
    """
    keys = k.transpose(0, 1).contiguous()  # (H, n, K)
    queries = (q.transpose(0, 1) * q.shape[-1] ** -0.5).contiguous()
    values = v.permute(1, 2, 0).contiguous()  # (H, K, n)
    out = torch.empty(q.shape, dtype=q.dtype)
    for head in range(q.shape[1]):
        for at in range(0, len(q), QUERIES):
            scores = product(queries[head, at : at + QUERIES], keys[head])
            torch.softmax(scores, -1, out=scores)
            out[at : at + QUERIES, head] = product(scores, values[head])
    return out


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
