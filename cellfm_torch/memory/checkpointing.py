"""Activation checkpointing: layers that keep their input only, and run forward again when their gradient is asked for.

Costs one more forward pass of each such layer (a third of its arithmetic) and saves what it keeps for its backward
pass. Layers are wrapped from outside: their code, and the names in the state dict, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cellfm_torch.errors import UserError, nearest

POLICIES = ("none", "all", "auto")


def check_policy(policy: int | str) -> None:
    """Refuse what is no policy.

    Raises
    ------
    UserError
    """
    whole = isinstance(policy, int) and not isinstance(policy, bool) and policy >= 0
    if not whole and policy not in POLICIES:
        raise UserError(
            f"callbacks.activation_checkpointing.policy={policy}: choose {', '.join(POLICIES)} or a number of layers"
            f"{nearest(str(policy), POLICIES)}"
        )


def checkpoint_layers(layers: Sequence[nn.Module] | nn.ModuleList, policy: int | str) -> int:
    """Wrap the first layers, and unwrap the others.

    The first, because what a layer computes again is then computed when the layers above have already released what
    they kept: k of the first layers need less at the peak than k of the last.

    Parameters
    ----------
    layers
        In the order in which they run.
    policy
        ``"none"``, ``"all"``, or how many.

    Returns
    -------
    Number of layers wrapped.

    Raises
    ------
    UserError
        For another policy; ``"auto"`` needs to know the memory, see
        :class:`~cellfm_torch.callbacks.memory.ActivationCheckpointing`.
    """
    check_policy(policy)
    if policy == "auto":
        raise UserError("callbacks.activation_checkpointing.policy=auto is for a Trainer; give a number of layers here")
    number = {"none": 0, "all": len(layers)}[policy] if isinstance(policy, str) else min(policy, len(layers))
    for i, layer in enumerate(layers):
        wrapped = layer.__dict__.get("forward")
        if isinstance(wrapped, partial) and wrapped.func is _run:
            if i >= number:
                del layer.__dict__["forward"]
                if (before := wrapped.args[0]) != layer.forward:  # a forward that somebody else had put there
                    layer.forward = before
        elif i < number:
            # A partial and not a closure: a deep copy of the layer then runs the copy.
            layer.forward = partial(_run, layer.forward)
    return number


def _run(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """Run a layer forward; where gradients are asked for, so that it runs again for them, with the same dropout."""
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=True, **options)
