"""Low-rank adapters (LoRA, arXiv 2106.09685) on the dense layers of the encoder, as the official code places them.

Shapes: r rank, (out, in) of the adapted layer.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from cellfm_torch.ops.linear import Dense, linear

# Small at the start, and B is zero: an adapter changes nothing before it has learned something.
START_STD = 0.01

Network = TypeVar("Network", bound=nn.Module)


class LoRALinear(Dense):
    """A dense layer without bias plus ``B (A x)``; `weight` keeps its name, so that plain weights load unchanged."""

    def __init__(self, inputs: int, outputs: int, *, rank: int, device: torch.device | None = None) -> None:
        super().__init__(inputs, outputs, bias=False, device=device)
        self.lora_a = nn.Parameter(torch.empty(rank, inputs, device=device))
        self.lora_b = nn.Parameter(torch.empty(outputs, rank, device=device))
        nn.init.normal_(self.lora_a, std=START_STD)
        nn.init.zeros_(self.lora_b)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return super().forward(x) + linear(linear(x, self.lora_a), self.lora_b)


def merged_weight(weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return ``W + B A`` (out, in), summed in float64 and rounded once to the type of `weight`."""
    return (weight.double() + b.double() @ a.double()).to(weight.dtype)


def merge_lora(network: Network) -> Network:
    """Return the same network without adapters, their products added to the weights.

    The given network is left alone; what is not adapted shares its memory with the result. Outputs agree up to
    rounding: ``(W + B A) x`` is summed in another order than ``W x + B (A x)``.
    """
    state = network.state_dict()
    merged = {name: x for name, x in state.items() if not name.endswith((".lora_a", ".lora_b"))}
    for name in (name for name in state if name.endswith(".lora_a")):
        layer = name.removesuffix(".lora_a")
        merged[f"{layer}.weight"] = merged_weight(state[f"{layer}.weight"], state[name], state[f"{layer}.lora_b"])
    own = cast(Any, network)
    with torch.device("meta"):
        plain = type(own)(dataclasses.replace(own.config, lora_rank=0), genes=own.genes)
    plain.load_state_dict(merged, strict=True, assign=True)
    return cast(Network, plain.train(network.training))
