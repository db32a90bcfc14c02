"""Adam as MindSpore computes it, in one kernel or step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

FUSED_DEVICES = ("cpu", "cuda")
"""Device types on which the fused kernel was tried."""


class MindSporeAdam(Optimizer):
    """Adam as MindSpore computes it: ``w -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)``.

    `eps` is added to the uncorrected sqrt(v), where :class:`torch.optim.Adam` corrects v first; the first steps differ
    by more than rounding. Weight decay is L2, added to the gradient.

    Parameters
    ----------
    params
        Tensors, or groups of them.
    lr
        Step size.
    betas
        Decay of the running means of gradient and squared gradient.
    eps
        Added to sqrt(v).
    weight_decay
        L2 factor.
    fused
        One pass over memory per tensor, by PyTorch's own Adam kernel, where the device has it. False: one operation
        after the other. Both are this formula; they differ by rounding.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        fused: bool = True,
    ) -> None:
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "fused": fused}
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore; states saved before `fused` existed get its default."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("fused", True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; tensors without a gradient are left alone."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            alike: dict[tuple[Any, ...], list[Tensor]] = {}
            for p in weights:
                state = self.state[p]
                if not state:
                    state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
                state["step"] += 1
                alike.setdefault((state["step"], p.device, p.dtype), []).append(p)
            for (step, device, _), params in alike.items():
                update = self._update_fused if group["fused"] and device.type in FUSED_DEVICES else self._update
                update(params, step, group)
        return loss

    def _update(self, params: list[Tensor], step: int, group: dict[str, Any]) -> None:
        """Update tensors that are all at the same step."""
        beta1, beta2 = group["betas"]
        grads = [p.grad for p in params if p.grad is not None]
        if group["weight_decay"]:
            grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
        mean = [self.state[p]["exp_avg"] for p in params]
        square = [self.state[p]["exp_avg_sq"] for p in params]
        torch._foreach_lerp_(mean, grads, 1 - beta1)
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, grads, grads, 1 - beta2)
        divisor = torch._foreach_sqrt(square)
        torch._foreach_add_(divisor, group["eps"])
        size = group["lr"] * math.sqrt(1 - beta2**step) / (1 - beta1**step)
        torch._foreach_addcdiv_(params, mean, divisor, -size)

    def _update_fused(self, params: list[Tensor], step: int, group: dict[str, Any]) -> None:
        """Do the same in PyTorch's kernel, which divides by ``sqrt(v) / sqrt(1 - b2^t) + eps``.

        With eps / sqrt(1 - b2^t) for its eps that is MindSpore's form.
        """
        beta1, beta2 = group["betas"]
        # The kernel walks memory and does not look at strides.
        grads = [
            p.grad if p.grad.stride() == p.stride() else torch.empty_like(p).copy_(p.grad)
            for p in params
            if p.grad is not None
        ]
        torch._fused_adam_(
            params,
            grads,
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            [torch.tensor(float(step), device=params[0].device)] * len(params),
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"] / math.sqrt(1 - beta2**step),
            amsgrad=False,
            maximize=False,
        )
