"""How weights are updated: the optimiser, which weights decay, the schedule, clipping - as one recipe.

Source of the published choices: the training configuration of CellFM (Nat. Commun. 16, 2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cellfm_torch.distributed.sharding import is_shard, whole
from cellfm_torch.errors import UserError
from cellfm_torch.mindspore_adam import MindSporeAdam

__all__ = ["MindSporeAdam", "Recipe", "clip_each", "decay_groups", "warmup_cosine"]


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split trainable parameters into decayed and not.

    The published rule: no decay for embedding tables and vectors (``emb`` in the name) and for the biases of dense
    layers; everything else decays, gains and offsets of the norms included.
    """
    norms = {id(p) for module in network.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, p in network.named_parameters():
        if p.requires_grad:
            free = "emb" in name or (name.endswith("bias") and id(p) not in norms)
            (spared if free else decayed).append(p)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def warmup_cosine(
    step: int, *, lr: float, warmup_steps: int, total_steps: int, start_lr: float, min_lr: float
) -> float:
    """Return the learning rate of a step as a fraction of `lr`: linear warm-up, then half a cosine down to `min_lr`."""
    if step < warmup_steps:
        return (start_lr + (lr - start_lr) * step / warmup_steps) / lr
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return (min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))) / lr


def clip_each(parameters: Iterable[Tensor], clip_norm: float) -> None:
    """Clip each gradient's norm on its own, in place.

    The numbers are those of :func:`torch.nn.utils.clip_grad_norm_` called for one tensor after the other.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return
    norms = torch.stack([norm.to(grads[0].device) for norm in torch._foreach_norm(grads)])
    if is_shard(norms):  # of sharded gradients: norms are of the whole, products of what is here
        norms, grads = whole(norms), [g.to_local() for g in grads]  # type: ignore[attr-defined]
    factors = (clip_norm / (norms + 1e-6)).clamp(max=1.0)
    # On a CPU a look at the factor costs nothing, a multiplication by 1 a pass over the gradient.
    pairs = [(g, f) for g, f in zip(grads, factors, strict=True) if f.device.type != "cpu" or f != 1]
    for grad, factor in pairs:
        grad.mul_(factor.to(grad.device))


class Recipe:
    """Optimiser, schedule and clipping, configured together.

    Parameters
    ----------
    optimizer
        Called with parameter groups, `lr`, `betas` and `eps`; default :class:`MindSporeAdam`.
    lr
        Highest learning rate.
    betas, eps
        Of Adam.
    weight_decay
        As the optimiser understands it; see :func:`decay_groups` for the weights it applies to.
    warmup_steps
        Optimiser steps from `start_lr` up to `lr`.
    start_lr, min_lr
        Learning rates at the first and the last step.
    total_steps
        Optimiser steps of the whole schedule; None: as many as the Trainer will take.
    clip_norm
        Largest gradient norm; None for no clipping.
    clip_per_tensor
        True: each tensor's norm on its own, as published. False: the norm of all together.

    Raises
    ------
    UserError
        If a number is not one, or out of range.
    """

    def __init__(
        self,
        optimizer: Callable[..., Optimizer] = MindSporeAdam,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 1e-5,
        warmup_steps: int = 0,
        start_lr: float = 0.0,
        min_lr: float = 0.0,
        total_steps: int | None = None,
        clip_norm: float | None = 1.0,
        clip_per_tensor: bool = True,
    ) -> None:
        numbers = {"lr": lr, "eps": eps, "weight_decay": weight_decay, "warmup_steps": warmup_steps}
        for name, value in (numbers | {"start_lr": start_lr, "min_lr": min_lr}).items():
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise UserError(f"optim.{name}={value}: must be a number, not negative")
        for name, limit in {"lr": lr, "total_steps": total_steps, "clip_norm": clip_norm}.items():
            if limit is not None and (not isinstance(limit, (int, float)) or not limit > 0):
                raise UserError(f"optim.{name}={limit}: must be a number above 0")
        if len(betas) != 2 or not all(isinstance(beta, (int, float)) and 0 <= beta < 1 for beta in betas):
            raise UserError(f"optim.betas={betas}: must be two numbers, at least 0 and below 1")
        self.make = partial(optimizer, lr=lr, betas=tuple(betas), eps=eps)
        self.weight_decay = weight_decay
        self.total_steps = total_steps
        self.schedule = partial(warmup_cosine, lr=lr, warmup_steps=warmup_steps, start_lr=start_lr, min_lr=min_lr)
        self.clip_norm = clip_norm
        self.clip_per_tensor = clip_per_tensor

    def build(self, network: nn.Module, *, steps: int) -> tuple[Optimizer, LambdaLR]:
        """Return optimiser and schedule for a network that will take `steps` steps."""
        optimizer = self.make(decay_groups(network, self.weight_decay))
        # PyTorch's fused optimisers would undo float16's loss scaling inside their step, after we clipped scaled
        # gradients; without this mark the scaling is undone before.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        factor = partial(self.schedule, total_steps=self.total_steps or steps)
        return optimizer, LambdaLR(optimizer, lambda step: factor(step))

    def clip(self, parameters: Iterable[Tensor]) -> None:
        """Clip gradients in place."""
        if self.clip_norm is None:
            return
        tensors = [p for p in parameters if p.grad is not None]
        if self.clip_per_tensor:
            clip_each(tensors, self.clip_norm)
        else:
            nn.utils.clip_grad_norm_(tensors, self.clip_norm)
