"""Ctrl-C and SIGTERM during training: finish the step, save, say how to go on."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist
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
    """Carry torch's random state through a checkpoint, so that a resumed run draws the same dropout masks.

    Of several processes each has its own; with another number of them others are drawn.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the states at the moment of saving; all processes have to ask."""
        on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        states: list[dict[str, Any]] = [{"cpu": torch.get_rng_state(), "cuda": on_gpus}]
        if dist.is_available() and dist.is_initialized():
            own, states = states[0], [{} for _ in range(dist.get_world_size())]
            dist.all_gather_object(states, own)
        return {**states[0], "others": states[1:]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until the first step: what runs before it may draw numbers of its own."""
        self._restored = state_dict

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Put a restored state in place."""
        if self._restored is not None:
            states = [self._restored, *self._restored.get("others", [])]
            own = states[trainer.global_rank if trainer.global_rank < len(states) else 0]
            torch.set_rng_state(own["cpu"])
            if len(own["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(own["cuda"])
            self._restored = None
