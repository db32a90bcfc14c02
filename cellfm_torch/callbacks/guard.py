"""Steps that would spoil a network: left out, reported with their cells, and an end where there are too many."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from cellfm_torch.distributed.sharding import whole
from cellfm_torch.errors import UserError

FORGETS = 0.98
"""Share of the running mean and spread of the loss that a step keeps: some fifty steps count."""

SETTLES = 50
"""Steps before a jump of the loss means anything."""

Loss = tuple[float | None, torch.Tensor | None]
"""Of a batch, where its task says it, and the rows of its cells."""


class StepGuard(Callback):
    """Leave out steps whose gradients are not finite, and log the gradients' norm and jumps of the loss.

    Logs ``grad_norm`` at every step. Where it is NaN or infinite the optimiser gets no gradients, so that weights and
    moments stay as they are; what the batches held is written to a file. float16's loss scaling leaves such steps out
    by itself: there those count whose loss, too, is not finite. A loss that is not finite with gradients that are is a
    jump.

    Parameters
    ----------
    most
        Steps in a row that may be left out; one more ends the training.
    spike
        Standard deviations, of the running mean, above which a loss is reported as a jump; None for no reports.
    report
        File of batches, a JSON object a line: ``step``, ``why``, ``loss`` and the rows of ``cells``. None for no file.
        With several processes one each, its number before the ending.
    checkpoint
        Where the state goes before training ends; None: nowhere.

    Attributes
    ----------
    left_out, jumps : int
        Steps so far.

    Raises
    ------
    UserError
        If a number makes no sense; in training after too many steps in a row, with the state saved.
    """

    def __init__(
        self,
        most: int = 10,
        spike: float | None = 6.0,
        report: str | Path | None = None,
        checkpoint: str | Path | None = None,
    ) -> None:
        if most < 0:
            raise UserError(f"StepGuard: most must be 0 steps or more, got {most}")
        if spike is not None and not spike > 0:
            raise UserError(f"StepGuard: spike must be a number above 0, got {spike}")
        self.most, self.spike = most, spike
        self.report = None if report is None else Path(report)
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.left_out = self.jumps = 0
        self._in_a_row = 0
        self._bad = self._scaled = False
        self._batches: list[Loss] = []
        self._seen, self._mean, self._square = 0, 0.0, 0.0

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Look at the gradients; take them away where they are not finite."""
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not grads:
            return
        norm = float(whole(torch.nn.utils.get_total_norm(grads)))
        pl_module.log("grad_norm", norm)
        self._scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        self._bad = not math.isfinite(norm) and not self._scaled
        if self._bad:
            optimizer.zero_grad(set_to_none=True)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count, report, and end the training where it leads nowhere."""
        found = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        loss = float(found) if isinstance(found, torch.Tensor) else None
        self._batches.append((loss, getattr(batch, "cell_index", None)))
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not self._bad:
            return
        batches, self._batches = self._batches, []
        bad, self._bad = self._bad or (self._scaled and self._lost(trainer, batches)), False
        if not bad:
            self._in_a_row = 0
            self._follow(trainer, batches)
            return
        self.left_out += 1
        self._in_a_row += 1
        culprits = [one for one in batches if not _finite(one)] or batches
        where = self._write(trainer, "not finite", culprits)
        self._say(trainer, f"step {trainer.global_step}: loss or gradients are not finite, the step is left out{where}")
        if self._in_a_row > self.most:
            saved = ""
            if self.checkpoint is not None:
                trainer.save_checkpoint(self.checkpoint)
                saved = f"; the state before them is saved in {self.checkpoint}"
            raise UserError(
                f"{self._in_a_row} steps in a row had a loss or gradients that are not finite{where}{saved}: train "
                "again with a lower optim.lr, or look at these cells"
            )

    @staticmethod
    def _lost(trainer: Any, batches: list[Loss]) -> bool:
        """Whether a loss is not finite, on whichever process: its gradients are added to those of all."""
        lost = not all(map(_finite, batches))
        return lost if trainer.world_size == 1 else bool(trainer.strategy.reduce_boolean_decision(lost, all=False))

    def _follow(self, trainer: Any, batches: list[Loss]) -> None:
        """Compare the loss of a step with those before."""
        losses = [loss for loss, _ in batches if loss is not None]
        if not losses:
            return
        loss = sum(losses) / len(losses)
        spread = math.sqrt(max(self._square - self._mean**2, 0.0))
        limit = math.inf if self.spike is None or self._seen < SETTLES else self._mean + self.spike * max(spread, 1e-12)
        if loss > limit or not math.isfinite(loss):
            self.jumps += 1
            where = self._write(trainer, "jump", batches)
            self._say(
                trainer, f"step {trainer.global_step}: the loss jumped to {loss:.3g} from {self._mean:.3g}{where}"
            )
        if not math.isfinite(loss):
            return
        keep = FORGETS if self._seen >= SETTLES else self._seen / (self._seen + 1)
        self._mean, self._square = keep * self._mean + (1 - keep) * loss, keep * self._square + (1 - keep) * loss**2
        self._seen += 1

    def _write(self, trainer: Any, why: str, batches: list[Loss]) -> str:
        """Append batches to the file; returns where, for a message."""
        if self.report is None:
            return ""
        path = self.report
        if trainer.world_size > 1:
            path = path.with_name(f"{path.stem}.{trainer.global_rank}{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            for loss, rows in batches:
                cells = [] if rows is None else rows.tolist()
                line = {"step": trainer.global_step, "why": why, "loss": str(loss), "cells": cells}
                file.write(json.dumps(line) + "\n")
        return f" (its cells: {path})"

    def _say(self, trainer: Any, line: str) -> None:
        if trainer.is_global_zero:
            print(f"\n{line}", file=sys.stderr, flush=True)


def _finite(batch: Loss) -> bool:
    return batch[0] is None or math.isfinite(batch[0])
