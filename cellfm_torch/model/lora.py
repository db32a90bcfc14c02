"""Low-rank adapters (LoRA, arXiv 2106.09685) on the dense layers of the encoder, as the official code places them.

Shapes: r rank, (out, in) of the adapted layer.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from cellfm_torch.errors import UserError
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


def add_lora(network: Network, rank: int) -> Network:
    """Return the same network with new adapters, which change nothing before they are trained.

    The given network is left alone; the weights share its memory and are frozen: only adapters learn.

    Raises
    ------
    UserError
        If the backbone takes no adapters, or has some already.
    """
    own = cast(Any, network)
    if not hasattr(own.config, "lora_rank"):
        raise UserError(f"{type(own).__name__} takes no adapters: choose method=frozen or method=full")
    if own.config.lora_rank:
        raise UserError(f"the model has adapters of rank {own.config.lora_rank} already: merge them first")
    if rank < 1:
        raise UserError(f"lora_rank={rank}: must be at least 1")
    with torch.device("meta"):
        adapted = type(own)(dataclasses.replace(own.config, lora_rank=rank), genes=own.genes)
    device = next(network.parameters()).device
    state = dict(network.state_dict())
    for name, module in adapted.named_modules():
        if isinstance(module, LoRALinear):
            weight = state[f"{name}.weight"]
            a = torch.empty(rank, weight.shape[1], dtype=weight.dtype, device=device)
            state[f"{name}.lora_a"] = nn.init.normal_(a, std=START_STD)
            state[f"{name}.lora_b"] = torch.zeros(len(weight), rank, dtype=weight.dtype, device=device)
    adapted.load_state_dict(state, strict=True, assign=True)
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_(name.endswith((".lora_a", ".lora_b")))
    return cast(Network, adapted.train(network.training))
