"""Which parts of a network are sharded: every layer by itself, and the rest of the network together (FSDP2).

A layer's weights are gathered before it computes and given back behind it, so that of the layers one or two are whole
at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh


def layers_of(network: nn.Module) -> list[nn.Module]:
    """Return the layers of a network: what its lists of modules hold, in their order."""
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    return [layer for some in lists for layer in some if any(True for _ in layer.parameters())]


def shard(module: nn.Module, mesh: DeviceMesh, *, offload: bool = False) -> None:
    """Shard the networks that a task holds, in place; what is sharded already is left as it is.

    Parameters
    ----------
    module
        A LightningModule; each of its children with weights is a network, which is called as a whole.
    mesh
        Of one dimension: sharded over it. Of two: sharded over the second, and the same over the first.
    offload
        Keep weights and optimiser on the CPU, where the optimiser then runs.
    """
    # Here: everything that saves or loads a model imports this file, and these take a second.
    from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard

    policy = OffloadPolicy() if not offload else CPUOffloadPolicy(pin_memory=mesh.device_type != "cpu")
    for network in module.children():
        if isinstance(network, FSDPModule) or not any(True for _ in network.parameters()):
            continue
        for layer in layers_of(network):
            fully_shard(layer, mesh=mesh, offload_policy=policy)
        fully_shard(network, mesh=mesh, offload_policy=policy)


def is_shard(x: Tensor) -> bool:
    """Whether a tensor is one process's part of a larger one (a DTensor)."""
    return hasattr(x, "full_tensor")


def class_name(network: object) -> str:
    """Return the name of a network's class; FSDP2 makes a class of its own of it, with its name in front."""
    names = [kind.__name__ for kind in type(network).__mro__]
    return next(name for name in names if not name.startswith("FSDP"))


def whole(x: Tensor) -> Tensor:
    """Return a tensor as one process would have it; of a sharded one every process has to ask."""
    if not is_shard(x):
        return x
    sharded = cast(Any, x)
    full: Tensor = sharded.to(sharded.device_mesh.device_type).full_tensor()  # offloaded: they travel from the device
    return full


def whole_tensors(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a state dict as one process would have them; of sharded ones to the first process only."""
    sharded = any(map(is_shard, state.values()))
    wanted = not sharded or dist.get_rank() == 0
    for name, x in state.items():
        full = whole(x.detach())
        if wanted:
            yield name, full


def is_sharded(module: nn.Module) -> bool:
    """Whether some weights of a module are sharded."""
    return any(map(is_shard, module.parameters()))
