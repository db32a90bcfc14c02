"""A backbone as fine-tuning trains it: frozen, with low-rank adapters, or whole."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from cellfm_torch.model.lora import add_lora

Network = TypeVar("Network", bound=nn.Module)


def adapted(network: Network, method: str, *, lora_rank: int) -> Network:
    """Return the backbone as a method trains it; the one given keeps its weights whatever happens.

    Parameters
    ----------
    network
        The backbone.
    method
        ``"lora"``: low-rank adapters learn; ``"full"``: everything does; any other: nothing.
    lora_rank
        Of the adapters.
    """
    if method == "lora":
        return add_lora(network, lora_rank)
    if method == "full":
        return copy.deepcopy(network).requires_grad_(True)
    return network.requires_grad_(False)
