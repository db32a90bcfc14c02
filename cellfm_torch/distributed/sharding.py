"""Which parts of a network are sharded: every layer by itself, and the rest of the network together (FSDP2).

A layer's weights are gathered before it computes and given back behind it, so that of the layers one or two are whole
at a time.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor


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
    policy = OffloadPolicy() if not offload else CPUOffloadPolicy(pin_memory=mesh.device_type != "cpu")
    for network in module.children():
        if isinstance(network, FSDPModule) or not any(True for _ in network.parameters()):
            continue
        for layer in layers_of(network):
            fully_shard(layer, mesh=mesh, offload_policy=policy)
        fully_shard(network, mesh=mesh, offload_policy=policy)


def whole(x: Tensor) -> Tensor:
    """Return a tensor as one process would have it; of a sharded one every process has to ask."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def is_sharded(module: nn.Module) -> bool:
    """Whether some weights of a module are sharded."""
    return any(isinstance(p, DTensor) for p in module.parameters())
