"""Dense layers in 8-bit integers, for processors with VNNI: weights scaled per output, tokens scaled per token.

A token's scale depends on that token alone, so that a cell's numbers never depend on its batch mates.

Shapes: N tokens, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cellfm_torch.errors import UserError

LARGEST = 127
ZERO = 128
"""Stands for 0 in the tokens' unsigned bytes: VNNI multiplies unsigned by signed."""


def has_vnni() -> bool:
    """Whether this processor multiplies bytes fast, and this build of PyTorch uses it."""
    asked = getattr(torch.cpu, "_is_vnni_supported", None) or getattr(torch.cpu, "_is_avx512_vnni_supported", None)
    return asked is not None and bool(asked()) and torch.backends.mkldnn.is_available()


class Int8Weight:
    """A dense layer's weight (O, I) rounded to bytes, each output to 1/127 of its largest entry.

    Raises
    ------
    UserError
        Without VNNI, where bytes would be slower than float32, and on a GPU.
    """

    def __init__(self, weight: Tensor) -> None:
        if not has_vnni() or weight.device.type != "cpu":
            raise UserError("int8 needs a CPU with VNNI (Intel since 2019, AMD since 2022); embed without int8")
        weight = weight.detach().float()
        self.scale = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST
        rounded = (weight / self.scale[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)

    def __call__(self, tokens: Int8Tokens) -> Tensor:
        """Return tokens @ weight.T, (N, O) float32."""
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            tokens.bytes, 1.0, ZERO, self.packed, self.scale, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return out.mul_(tokens.scale)


class Int8Tokens:
    """Tokens (N, I) rounded to bytes, each to 1/127 of its largest entry."""

    def __init__(self, x: Tensor) -> None:
        largest = torch.maximum(x.amax(1, keepdim=True), -x.amin(1, keepdim=True))
        self.scale = largest.clamp_min_(torch.finfo(torch.float32).tiny) / LARGEST
        # The addition of a half makes the cast, which drops the fraction, round to nearest.
        self.bytes = (x / self.scale).add_(ZERO + 0.5).to(torch.uint8)
