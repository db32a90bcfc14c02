"""Messages between genes along the edges of a graph, by gathers: no library of graphs is needed.

Shapes: T genes that receive, S genes that send, E neighbours of each at most, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellfm_torch.ops.linear import Dense


class GeneMessages(nn.Module):
    """Add to each gene what its neighbours say: x + W2 gelu(W1 mean of neighbours); W2 starts at zero.

    Parameters
    ----------
    width
        W.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = Dense(width, width, bias=False)
        self.outer = Dense(width, width, bias=False)
        nn.init.zeros_(self.outer.weight)

    def forward(self, x: Tensor, senders: Tensor, neighbours: Tensor, weights: Tensor) -> Tensor:
        """Return the receivers after one round of messages.

        Parameters
        ----------
        x : (T, W)
            Receivers.
        senders : (S, W)
        neighbours : (T, E) int64
            Rows of the senders; -1 for none.
        weights : (T, E)
            Not negative; those of a receiver are made to sum to one.
        """
        there = neighbours >= 0
        share = weights.to(x.dtype) * there
        share = share / share.sum(1, keepdim=True).clamp_min(1e-12)
        heard = torch.einsum("te,tew->tw", share, senders[neighbours.clamp_min(0)])
        out: Tensor = x + self.outer(F.gelu(self.inner(heard)))
        return out
