"""Ctrl-C and SIGTERM during training: finish the step, save, say how to go on."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class Stopped(Exception):
    """Training ended early on request; everything up to the last step is saved."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}")
        self.exit_code = 128 + signum
        self.step = step


class StopSignals:
    """Context in which SIGINT and SIGTERM become a request that :class:`SaveOnStop` honours between two steps.

    Outside training, and on the second signal, they act as usual.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None
        self.training = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def take_over(self) -> None:
        """Put our handlers in the place of those that Lightning puts around them.

        With several processes its own broadcasts from within the handler, in the middle of whatever else they send.
        """
        for number in self._before:
            signal.signal(number, self._handle)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.training or self.received is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            sys.exit(128 + number)
        self.received = number
        print("\nstopping after this step (once more: at once) ...", file=sys.stderr, flush=True)


class SaveOnStop(Callback):
    """Save the run and raise :class:`Stopped` at the end of the step in which a signal came, to whichever process.

    Parameters
    ----------
    signals
        Where requests arrive.
    path
        Checkpoint to write.
    """

    def __init__(self, signals: StopSignals, path: Path) -> None:
        self.signals = signals
        self.path = path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there is something to save."""
        self.signals.take_over()
        self.signals.training = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Honour a request, unless gradients are still being added up."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        asked = self.signals.received is not None
        if trainer.world_size > 1:  # all of them save, after the same step
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            trainer.save_checkpoint(self.path)
            raise Stopped(self.signals.received or signal.SIGTERM, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All steps are done and saved: signals act as usual again."""
        self.signals.training = False


class RandomState(Callback):
    """Give each batch random numbers of its own, by the seed of the run, the step and the batch's place in it.

    So a resumed run draws the dropout masks of an unbroken one, and several processes draw those that one process draws
    for the same batches: each of them others.
    """

    def __init__(self) -> None:
        self._seed: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the seed of the run."""
        return {"seed": self._seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the seed of the run; earlier versions kept none."""
        self._seed = state_dict.get("seed")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed torch on the CPU and the GPUs."""
        if self._seed is None:
            self._seed = torch.initial_seed()
        batches = trainer.accumulate_grad_batches
        place = trainer.global_rank * batches + batch_idx % batches
        numbers = np.random.SeedSequence([self._seed, trainer.global_step, place])
        torch.manual_seed(int(numbers.generate_state(1, np.uint64)[0]))
