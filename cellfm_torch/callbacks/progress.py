"""RunProgress: one progress bar over the whole run, or plain lines where nobody watches a terminal."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

PLAIN_SHARE = 0.1  # a plain line is due when this much of the run and
PLAIN_SECONDS = 15.0  # this much time has passed since the last one
REFRESH_SECONDS = 0.2  # the bar is drawn at most this often; reading the loss waits for the GPU


def clock(seconds: float | None) -> str:
    """Write a duration as ``m:ss`` or ``h:mm:ss``; ``-:--`` where it is unknown."""
    if seconds is None or not 0 <= seconds < 1e7:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short(number: float) -> str:
    """Write a rate in four characters or so: 7.3, 812, 1.2k, 401k, 2.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            scaled = number / size
            return f"{scaled:.0f}{unit}" if scaled >= 9.95 else f"{scaled:.1f}{unit}"
    return f"{number:.0f}" if number >= 9.95 else f"{number:.1f}"


class RunProgress(ProgressBar):
    """Show step, loss (smoothed), validation loss, cells/s, tokens/s and time left of the whole run.

    On a terminal one bar, with validation as a second one while it lasts, and prints above them; elsewhere (a log
    file, CI) a plain line after every 10 % of the run or 15 s, whichever is later. Rates are those of a
    :class:`.Throughput` among the trainer's callbacks. A resumed run starts at its step.

    Parameters
    ----------
    console
        Where to write; standard output when None.
    val_metric
        The validation loss's name among the logged metrics.
    smoothing
        Training steps the shown loss averages over (exponentially).
    """

    def __init__(self, console: Console | None = None, *, val_metric: str = "val_loss", smoothing: int = 20) -> None:
        super().__init__()
        self.is_enabled = True
        self._console = console
        self._val_metric = val_metric
        self._keep = 1 - 1 / max(1, smoothing)
        self._bar: Progress | None = None
        self._main: TaskID | None = None
        self._second: TaskID | None = None
        self._total: float | None = None
        self._start_done = 0
        self._done = 0
        self._loss: tuple[torch.Tensor | float, float] = (0.0, 0.0)  # weighted sum (on its device), sum of weights
        self._started = self._last_time = self._last_shown = 0.0
        self._last_done = 0
        self._waiting = False
        self._evaluating = ""

    def disable(self) -> None:
        """Show nothing from now on."""
        self._stop()
        self.is_enabled = False

    def enable(self) -> None:
        """Show progress again."""
        self.is_enabled = True

    def print(self, *args: Any, sep: str = " ", **kwargs: Any) -> None:
        """Print above the bar."""
        self._out.print(sep.join(map(str, args)), markup=False, highlight=False, soft_wrap=True, **kwargs)

    @property
    def _out(self) -> Console:
        if self._console is None:
            self._console = Console()
        return self._console

    @property
    def _on_terminal(self) -> bool:
        return (self._out.is_terminal and not self._out.is_dumb_terminal) or self._out.is_jupyter

    def _position(self, trainer: Any, batches_of_epoch: int) -> tuple[int, float | None]:
        """Return how far the run is and how far it goes: optimiser steps where they end it, else batches."""
        epochs, per_epoch = trainer.max_epochs or 0, trainer.num_training_batches
        by_epoch = float("inf") if epochs < 1 else epochs * per_epoch
        if 0 <= trainer.max_steps * trainer.accumulate_grad_batches <= by_epoch:
            return trainer.global_step, trainer.max_steps
        # Batches, since modules with several optimisers count several steps a batch.
        return trainer.current_epoch * per_epoch + batches_of_epoch, None if by_epoch == float("inf") else by_epoch

    def _time_left(self) -> float | None:
        made = self._done - self._start_done  # in this session: a resumed run has its own speed
        if self._total is None or made < 1:
            return None
        return (time.monotonic() - self._started) / made * max(0, self._total - self._done)

    def _numbers(self, trainer: Any, last: bool) -> list[str]:
        """Return loss, validation loss, cells/s, tokens/s and time left (at the end: taken), empty where unknown."""
        taken = f"in {clock(time.monotonic() - self._started)}"
        left = taken if last or self._done == self._total else f"{clock(self._time_left())} left"
        if trainer.state.fn != "fit":  # what is known of training is not of this
            return ["", "", "", "", left]
        total, weight = self._loss
        val = trainer.callback_metrics.get(self._val_metric)
        meter = next((c for c in trainer.callbacks if hasattr(c, "cells_per_second")), None)
        cells, tokens = getattr(meter, "cells_per_second", None), getattr(meter, "tokens_per_second", None)
        return [
            f"loss {float(total) / weight:.4f}" if weight else "",
            f"val {float(val):.4f}" if val is not None else "",
            f"{short(cells)} cells/s" if cells else "",
            f"{short(tokens)} tokens/s" if tokens else "",
            left,
        ]

    def _start(self, description: str, total: float | None, done: int = 0) -> None:
        self._stop()
        self._total, self._done, self._start_done = total, done, done
        self._started = self._last_time = self._last_shown = time.monotonic()
        self._last_done = done
        if not self.is_enabled:
            return
        if not self._on_terminal:
            self.print(f"{description} {self._count(done, total)}")
            return
        look = [TextColumn("{task.description:<10}"), BarColumn(bar_width=None), TextColumn("{task.fields[count]}")]
        # Narrow terminals keep the bar and lose tokens/s first, then cells/s, then the validation loss.
        least = {0: 0, 1: 64, 2: 78, 3: 94, 4: 0}
        look += [TextColumn(f"{{task.fields[n{i}]}}") for i, width in least.items() if self._out.width >= width]
        # No refreshing thread: it would hold the output's lock when a data loader forks its workers.
        self._bar = Progress(*look, console=self._out, auto_refresh=False, expand=True)
        self._bar.start()
        self._main = self._add(description, total, done)
        self._bar.refresh()

    def _add(self, description: str, total: float | None, done: int = 0) -> TaskID:
        assert self._bar is not None
        blank: dict[str, Any] = {f"n{i}": "" for i in range(5)}
        return self._bar.add_task(description, total=total, completed=done, count=self._count(done, total), **blank)

    @staticmethod
    def _count(done: int, total: float | None) -> str:
        return f"{done}/{total:.0f}" if total is not None else str(done)

    def _show(self, trainer: Any, description: str, *, last: bool = False) -> None:
        now = time.monotonic()
        if not self.is_enabled:
            return
        if self._bar is not None and self._main is not None:
            if last or now - self._last_shown >= REFRESH_SECONDS:
                self._last_shown = now
                numbers: dict[str, Any] = {f"n{i}": text for i, text in enumerate(self._numbers(trainer, last))}
                count = self._count(self._done, self._total)
                self._bar.update(self._main, completed=self._done, count=count, refresh=True, **numbers)
        elif not self._on_terminal:
            grown = self._done - self._last_done
            due = grown >= PLAIN_SHARE * (self._total or 0) and now - self._last_time >= PLAIN_SECONDS
            if due or (last and grown):
                self._last_time, self._last_done = now, self._done
                share = f" ({self._done / self._total:.0%})" if self._total else ""
                numbers_shown = [text for text in self._numbers(trainer, last) if text]
                self.print("  ".join([f"{description} {self._count(self._done, self._total)}{share}", *numbers_shown]))

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._main = self._second = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Wait for the first batch: only its number tells where in an epoch a resumed run goes on."""
        self._waiting, self._loss = True, (0.0, 0.0)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: D102
        if self._waiting:
            self._waiting = False
            done, total = self._position(trainer, batch_idx)
            self._start("Training", total, done)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: D102
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            total, weight = self._loss
            self._loss = (total * self._keep + loss.detach().float(), weight * self._keep + 1)
        self._done, self._total = self._position(trainer, batch_idx + 1)
        self._show(trainer, "Training")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        if not self._waiting:
            self._show(trainer, "Training", last=True)
        self._stop()

    def _evaluate(self, trainer: Any, description: str, batches: Any) -> None:
        total = float(sum(batches)) if isinstance(batches, list) else float(batches)
        known = None if total == float("inf") else total
        self._evaluating = description
        if trainer.state.fn != "fit":
            self._start(description, known)
        elif self._bar is not None:
            self._second = self._add(description, known)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._evaluate(trainer, "Validation", trainer.num_val_batches)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._evaluate(trainer, "Testing", trainer.num_test_batches)

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._evaluate(trainer, "Predicting", trainer.num_predict_batches)

    def on_validation_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:  # noqa: D102
        if trainer.state.fn != "fit":
            self._done += 1
            self._show(trainer, self._evaluating)
        elif self._bar is not None and self._second is not None:
            task, now = self._bar.tasks[-1], time.monotonic()
            due = now - self._last_shown >= REFRESH_SECONDS
            self._last_shown = now if due else self._last_shown
            count = self._count(int(task.completed) + 1, task.total)
            self._bar.update(self._second, advance=1, refresh=due, count=count)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        if trainer.state.fn != "fit":
            self._show(trainer, self._evaluating, last=True)
            self._stop()
        elif self._bar is not None and self._second is not None:
            self._bar.remove_task(self._second)
            self._second = None

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end
    on_test_end = on_predict_end = on_validation_end

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the terminal as it was, so that the message stands below the bar."""
        self._stop()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: D102
        self._stop()
