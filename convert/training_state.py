"""Adam's state from a MindSpore training checkpoint to a Lightning one: pretraining goes on where it stopped."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cellfm_torch.errors import UserError
from cellfm_torch.files import written_beside
from cellfm_torch.model import CellFM
from cellfm_torch.optim import Recipe

from .mindspore_ckpt import Source, first_nonfinite
from .names import MOMENT, target_name
from .network import Layout

PUBLISHED_BETAS = (0.9, 0.95)
SMALLEST_POWER = 1e-30  # float32 counts no further down; beta cannot be worked out then


def write_training_state(source: Source, layout: Layout, path: Path) -> int:
    """Write a checkpoint for ``PretrainTask`` with a ``Recipe`` of :class:`MindSporeAdam`.

    It goes to ``trainer.fit(task, datamodule=..., ckpt_path=path, weights_only=True)``. Weights, moments, step and the
    learning rate of the next step are MindSpore's; after that step the schedule is the recipe's, at that step. Data
    begin at the start of an epoch, and the loss scale anew.

    Parameters
    ----------
    source
        The open checkpoint.
    layout
        As recognised.
    path
        Written beside and renamed.

    Returns
    -------
    Steps taken so far.

    Raises
    ------
    UserError
        If the checkpoint holds no training state of a pretraining.
    """
    if layout.task is not None or layout.config.lora_rank:
        kind = layout.task or "lora"
        raise UserError(f"--training-state is for pretraining, this is a checkpoint of {kind} training")
    with torch.device("meta"):
        network = CellFM(layout.config, genes=layout.genes)
    step = _whole(source, "global_step")
    learning_rate = _number(source, "learning_rate")
    betas = tuple(_beta(source, f"beta{i}_power", step=step, published=b) for i, b in enumerate(PUBLISHED_BETAS, 1))
    optimizer, _ = Recipe(lr=max(learning_rate, 1e-30), betas=(betas[0], betas[1])).build(network, steps=1)
    name_of = {id(p): name for name, p in network.named_parameters()}
    moments = _moments(source)
    state = {}
    groups: list[dict[str, Any]] = optimizer.state_dict()["param_groups"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for i, parameter in enumerate(parameters):
        name = name_of[id(parameter)]
        first, second = (_moment(source, moments, which, name, parameter.shape) for which in "12")
        state[i] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
    for group in groups:
        group["lr"] = learning_rate
        group.pop("initial_lr", None)  # the recipe's, not this file's
    checkpoint = {
        "state_dict": {f"network.{ours}": _float32(source, name) for name, ours in layout.names.items()},
        "optimizer_states": [{"state": state, "param_groups": groups}],
        # Only where the schedule is; what it is, the recipe says.
        "lr_schedulers": [{"last_epoch": step, "_step_count": step + 1, "lr_lambdas": [None] * len(groups)}],
        "epoch": 0,
        "global_step": step,
        "callbacks": {},
        "loops": {"fit_loop": _loops(step)},
        "pytorch-lightning_version": version("lightning"),
    }
    try:
        with written_beside(path) as part:
            torch.save(checkpoint, part)
    finally:
        del checkpoint, state  # they point into the map, which may be closed now
    return step


def _whole(source: Source, name: str) -> int:
    value = _number(source, name)
    if value != int(value) or not 0 <= value < 2**53:
        raise UserError(f"{name} is {value}, not a number of steps")
    return int(value)


def _number(source: Source, name: str) -> float:
    if name not in source.entries:
        raise UserError(f"the checkpoint has no {name}: it holds no training state; leave out --training-state")
    x = source.tensor(name)
    if x.numel() != 1 or not bool(x.isfinite().all()):
        raise UserError(f"{name} is not one finite number (shape {tuple(x.shape)})")
    return float(x)


def _beta(source: Source, name: str, *, step: int, published: float) -> float:
    """Work out Adam's beta from its power at this step; the published one where that is not to be had."""
    if name not in source.entries or step < 1:
        return published
    power = _number(source, name)
    if not SMALLEST_POWER < power < 1:
        return published
    return round(power ** (1 / step), 6)  # float32 products are off by at most 1e-7 a step


def _moments(source: Source) -> dict[tuple[str, str], str]:
    """Return the official name of each moment by ("1" or "2", our name of the weight)."""
    found = {}
    for name in source.entries:
        match = re.fullmatch(MOMENT, name)
        if match:
            target = target_name(match[2])
            if target is None:
                raise UserError(f"the checkpoint holds {name}, which the name table does not know; nothing was written")
            found[match[1], target] = name
    return found


def _moment(source: Source, names: dict[tuple[str, str], str], which: str, parameter: str, shape: torch.Size) -> Tensor:
    name = names.get((which, parameter))
    if name is None:
        raise UserError(f"the checkpoint lacks moment{which} of {parameter}: training state of another kind")
    if source.entries[name].dims != tuple(shape):
        raise UserError(f"{name} has shape {source.entries[name].dims}, the network needs {tuple(shape)}")
    return _float32(source, name)


def _float32(source: Source, name: str) -> Tensor:
    """Return a tensor to be written, in float32, where possible without copying it out of the map."""
    for chunk in source.chunks(name):
        if first_nonfinite(chunk) is not None:
            raise UserError(f"{name} holds NaN or infinity: damaged training state; nothing was written")
    return source.view(name) if source.entries[name].kind == "Float32" else source.tensor(name).float()


def _loops(step: int) -> dict[str, Any]:
    """Lightning's progress after `step` optimiser steps, at the start of an epoch."""

    def progress(*stages: str, total: int) -> dict[str, Any]:
        names = ("ready", "completed", *stages)
        return {"total": dict.fromkeys(names, total), "current": dict.fromkeys(names, 0)}

    batches = progress("started", "processed", total=step) | {"is_last_batch": False}
    none = progress("started", "processed", total=0)
    return {
        "state_dict": {},
        "epoch_loop.state_dict": {"_batches_that_stepped": step},
        "epoch_loop.batch_progress": batches,
        "epoch_loop.scheduler_progress": progress(total=step),
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {"step": progress(total=step), "zero_grad": progress("started", total=step)}
        },
        "epoch_loop.manual_optimization.state_dict": {},
        "epoch_loop.manual_optimization.optim_step_progress": progress(total=0),
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": none | {"is_last_batch": False},
        "epoch_progress": none,
    }
