"""RetNet's decay: a factor per head and token of distance (arXiv 2307.08621).

Shapes: H heads, n tokens of a piece of a cell.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cellfm_torch.ops.layout import Piece


class Fading(NamedTuple):
    """Weights of tokens by their place in the cell: a decay to the power of a distance."""

    decay: Tensor
    """(H,) float64, in (0, 1]."""
    from_start: bool
    """Distance 1, 2, ... from what came before the cell; otherwise ..., 1, 0 to the cell's last token."""

    def of(self, piece: Piece, dtype: torch.dtype) -> Tensor:
        """Return the weights of a piece's tokens, (n, H, 1)."""
        place = torch.arange(piece.start, piece.end, device=self.decay.device)
        distance = place - piece.first + 1 if self.from_start else piece.last - 1 - place
        return powers(self.decay, distance).to(dtype)[..., None]


def powers(decay: Tensor, distance: Tensor) -> Tensor:
    """Return decay ** distance, (..., H) in float64: in float32 a decay near 1 would be off after 1,000 tokens.

    Distances are never negative, so that a power underflows to 0 at worst.
    """
    return torch.pow(decay.double(), distance[..., None].double())


def check_decay_shape(decay: Tensor, heads: int) -> None:
    """Refuse what is not one constant per head; does not wait for the device."""
    if decay.requires_grad:
        raise ValueError("decay is a constant of the model and gets no gradient; give decay.detach()")
    if decay.shape != (heads,) or not decay.is_floating_point():
        raise ValueError(f"decay must be one number per head, ({heads},), got {decay.dtype} {tuple(decay.shape)}")


def checked_decay(decay: Tensor, heads: int, device: torch.device) -> Tensor:
    """Return a decay (H,) in float64 on the device, or refuse it."""
    check_decay_shape(decay, heads)
    if not bool(((decay > 0) & (decay <= 1)).all()):
        raise ValueError(f"decay must be above 0 and at most 1, got {decay.tolist()}")
    return decay.to(device, torch.float64)


def check_same_decay(one: Tensor | None, other: Tensor | None) -> None:
    """Refuse two decays that differ; None is 1."""
    if one is other:
        return
    like = one if one is not None else other
    assert like is not None
    both = [
        torch.ones_like(like, dtype=torch.float64) if x is None else x.to(like.device).double() for x in (one, other)
    ]
    if not torch.equal(*both):
        raise ValueError(f"the state's decay is {both[0].tolist()} per token, here it is {both[1].tolist()}")
