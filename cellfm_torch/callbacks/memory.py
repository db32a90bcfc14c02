"""Callbacks that fit training to the memory: activation checkpointing, tokens per batch, memory kept between steps.

They know nothing of our tasks. Where something must be found out, they try a step before training starts.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from torch import nn

from cellfm_torch.callbacks.trial import StepTrial
from cellfm_torch.errors import UserError, nearest
from cellfm_torch.memory.checkpointing import check_policy, checkpoint_layers
from cellfm_torch.memory.device import HEAD_ROOM, available_memory, keep_freed_memory, largest, peak_memory


def _say(text: str) -> None:
    rank_zero_only(Console(highlight=False, soft_wrap=True, markup=False).print)(text)


class ActivationCheckpointing(Callback):
    """Let layers keep their input only, and compute the rest again when their gradient is asked for.

    The numbers stay the same, bit for bit; each such layer costs a third more arithmetic.

    Parameters
    ----------
    policy
        ``"none"``, ``"all"``, how many of the layers (the first ones), or ``"auto"``: as few as make a batch of the
        data module's token budget fit.
    layers
        Dotted name of the list of layers, or of a module that holds it as ``layers``.

    Attributes
    ----------
    number : int
        Layers that do so now.

    Raises
    ------
    UserError
        At once for a policy that is none; at the start of a fit, where the module has no such layers, or no policy
        makes the batch fit.
    """

    def __init__(self, policy: int | Literal["none", "all", "auto"] = "none", layers: str = "network.encoder") -> None:
        check_policy(policy)
        self.policy = policy
        self.layers = layers
        self.number = 0

    def _layers(self, pl_module: nn.Module) -> nn.ModuleList:
        lists = {name: x for name, x in pl_module.named_modules() if isinstance(x, nn.ModuleList)}
        inside = f"{self.layers}.layers"
        if self.layers not in lists and inside not in lists:
            raise UserError(
                f"callbacks.activation_checkpointing.layers={self.layers}: {type(pl_module).__name__} has no such list "
                f"of layers{nearest(self.layers, lists)}; it has {', '.join(lists) or 'none'}"
            )
        return lists.get(self.layers) or lists[inside]

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Wrap the layers before training."""
        if stage != "fit" or self.policy in ("none", 0):
            return
        layers = self._layers(pl_module)
        policy = self._fewest(trainer, pl_module, layers) if self.policy == "auto" else self.policy
        self.number = checkpoint_layers(layers, policy)

    def _fewest(self, trainer: Any, pl_module: Any, layers: nn.ModuleList) -> int:
        budget = getattr(getattr(trainer, "datamodule", None), "token_budget", None)
        if budget is None:
            raise UserError(
                "callbacks.activation_checkpointing.policy=auto needs a number of tokens per batch: set "
                "data.token_budget, or choose the policy all and leave data.token_budget=auto"
            )
        trial = StepTrial(trainer, pl_module)
        free = trial.usable_bytes
        needs = []
        for policy in ("none", "all"):
            checkpoint_layers(layers, policy)
            needs.append(trial.needs(_least(trainer.datamodule)).of(budget))
        # At the peak one layer holds everything, whether it kept it or has just computed it again.
        most = max(1, len(layers) - 1)
        saved = (needs[0] - needs[1]) / most
        number = next((k for k in range(most + 1) if needs[0] - k * saved <= free), None)
        if number is None:
            raise UserError(
                f"a batch of {budget:,} tokens needs {needs[1] / 1e9:.1f} GB with every layer checkpointed and "
                f"{free / 1e9:.1f} GB can be used: lower data.token_budget or data.max_genes"
            )
        _say(f"activation checkpointing: {number} of {len(layers)} layers ({budget:,} tokens a batch)")
        return number

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the layers as they were."""
        if stage == "fit" and self.number:
            self.number = checkpoint_layers(self._layers(pl_module), "none")


def _least(data: Any) -> int:
    """Smallest budget the data module takes."""
    return int(data.least_token_budget)


class KeepFreedMemory(Callback):
    """On a CPU, let tensors take over the memory of the last step's: up to 1.6 times the speed, twice the memory.

    Begins after the first step, where there is room for it, and ends when the memory runs low; the numbers stay the
    same. Nothing happens on a GPU, and where the C library is not glibc.

    Parameters
    ----------
    room
        Free memory in multiples of what the process has taken at its peak so far, at least; half of that from then on.

    Raises
    ------
    UserError
        If `room` is not above 0.

    Attributes
    ----------
    kept : bool or None
        Whether it does so now; None before the first step.
    """

    def __init__(self, room: float = 3.0) -> None:
        if not room > 0:
            raise UserError(f"callbacks.keep_freed_memory.room={room}: must be above 0 (or null for the callback)")
        self.room = room
        self.kept: bool | None = None
        self._least = 0.0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Begin, or end."""
        if self.kept is None:
            taken = peak_memory()
            on_cpu = trainer.strategy.root_device.type == "cpu"
            free = available_memory() / trainer.num_devices if on_cpu else 0.0
            self._least = self.room / 2 * taken
            self.kept = free > self.room * taken and keep_freed_memory()
        elif self.kept and available_memory() < self._least:
            self._end()

    def _end(self) -> None:
        if self.kept:
            keep_freed_memory(False)
        self.kept = False

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give the memory back."""
        self._end()
        self.kept = None


class TokenBudgetFinder(Callback):
    """Give a data module that leaves its ``token_budget`` open (None) the largest that fits the device.

    On CUDA by trial: forward and backward of ever larger batches until one does not fit. On a CPU, which would swap
    or be killed instead, from the bytes per token of two small batches. A share of the memory stays free, and the
    budget is never below the data module's ``least_token_budget``. With several processes the smallest one counts.

    Parameters
    ----------
    most
        Tokens per batch that are enough, even where more would fit; None for no such limit.

    Raises
    ------
    UserError
        At the start of a fit, if not even the smallest budget fits.
    """

    def __init__(self, most: int | None = None) -> None:
        if most is not None and most < 1:
            raise UserError(f"callbacks.token_budget.most={most}: must be at least 1 token, or null")
        self.most = most
        self._found = False

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Find the budget before the loaders are made."""
        data = getattr(trainer, "datamodule", None)
        if stage != "fit" or data is None or getattr(data, "token_budget", 0) is not None:
            return
        trial = StepTrial(trainer, pl_module)
        least = _least(data)
        whole = trial.epoch_tokens + least  # more changes nothing: an epoch is one batch
        most = max(least, min(whole, self.most or whole))
        search = self._by_trial if trial.device.type == "cuda" else self._by_estimate
        budget = torch.tensor(search(trial, least, most), device=trial.device)
        data.token_budget = int(trainer.strategy.reduce(budget, reduce_op="min"))
        self._found = True

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Say what it is; a resumed run has taken the budget it started with from its checkpoint by now."""
        if self._found:
            _say(f"token budget: {trainer.datamodule.token_budget:,} gene tokens a batch (data.token_budget=auto)")

    @staticmethod
    def _by_estimate(trial: StepTrial, least: int, most: int) -> int:
        needs, free = trial.needs(least), trial.usable_bytes
        if needs.of(least) > free:
            gigabytes = f"{needs.of(least) / 1e9:.1f} GB where {free / 1e9:.1f} GB can be used"
            raise UserError(_too_large(least, gigabytes))
        return min(most, needs.most_tokens(free))

    @staticmethod
    def _by_trial(trial: StepTrial, least: int, most: int) -> int:
        held_bytes = trial.state_bytes + int(HEAD_ROOM * available_memory(trial.device))

        def fits(budget: int) -> bool:
            torch.cuda.empty_cache()
            try:
                held = torch.empty(held_bytes, dtype=torch.uint8, device=trial.device)
                trial.run(trial.batch(budget))
            except torch.OutOfMemoryError:
                return False
            del held
            return True

        found = largest(fits, least=least, most=most)
        torch.cuda.empty_cache()
        if found is None:
            raise UserError(_too_large(least, "more than the device has"))
        return found


def _too_large(least: int, missing: str) -> str:
    return (
        f"data.token_budget=auto: two of the longest cells ({least:,} tokens a batch) need {missing}: lower "
        "data.max_genes or model.config.max_genes, or set callbacks.activation_checkpointing.policy=all"
    )
