"""Values as a soft choice among learned vectors: no bins are fixed beforehand.

Shapes: (...) scalars of any shape, W bins, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellfm_torch.ops.linear import Dense, linear

LEAKY_SLOPE = 0.1


class ValueEncoder(nn.Module):
    """``table softmax(alpha h + w2 h)`` with ``h = leaky_relu(w1 x)``, and vectors for what has no value.

    Expression, zeros included, and the two read depths go through the same one.
    """

    def __init__(self, *, num_bins: int, dim: int, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.w1 = Dense(1, num_bins)
        self.w2 = Dense(num_bins, num_bins)
        self.table = nn.Parameter(torch.randn(num_bins, dim))
        self.mask_emb = nn.Parameter(torch.randn(1, dim))
        # Published checkpoints hold it; here nothing is padded, and a parameter without a gradient would be refused
        # by distributed training.
        self.register_buffer("pad_emb", torch.randn(1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Embed scalars (...) as (..., D)."""
        # Elementwise, not as a product of matrices: autocast would round x to half precision there.
        h = F.leaky_relu(x[..., None] * self.w1.weight[:, 0] + self.w1.bias, LEAKY_SLOPE)
        return linear((self.alpha * h + self.w2(h)).softmax(-1), self.table.mT)
