"""Callbacks of the prediction loop: what was computed goes into parts, and the person at the keyboard sees how far.

Shapes: B cells of a batch, C width of an output.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cellfm_torch.embedding.parts import Parts

PART_BYTES = 64 << 20
PART_SECONDS = 20.0
"""A part is kept when there is so much, or so long after the last one: what a kill can lose."""

PLAIN_SECONDS = 15.0
"""Between two lines where nobody watches a terminal."""


class PartWriter(Callback):
    """Hand what ``predict_step`` returns to parts; each process writes those of the cells it was given that are wanted.

    Lightning's prediction writers get the indices of a sampler of indices; rows are in the batch here.

    Parameters
    ----------
    parts
        Where to.
    wanted
        Rows, ascending; others are only there so that each process has something to do.
    """

    def __init__(self, parts: Parts, wanted: NDArray[np.int64]) -> None:
        self.parts = parts
        self.wanted = wanted
        self._rows: list[NDArray[np.int64]] = []
        self._values: list[dict[str, NDArray[np.float32]]] = []
        self._bytes, self._since = 0, time.monotonic()

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._since = time.monotonic()

    def on_predict_batch_end(  # noqa: D102
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        rows = batch.cell_index.cpu().numpy()
        if (keep := np.isin(rows, self.wanted)).any():
            self._rows.append(rows[keep])
            self._values.append({name: x.numpy()[keep] for name, x in outputs.items()})
            self._bytes += sum(x.nbytes for x in self._values[-1].values())
        if self._bytes >= PART_BYTES or time.monotonic() - self._since >= PART_SECONDS:
            self._write()

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the rest, and wait until every process has."""
        self._write()
        trainer.strategy.barrier("embeddings written")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Keep what there is, Ctrl-C included."""
        self._write()

    def _write(self) -> None:
        if self._rows:
            values = {name: np.concatenate([one[name] for one in self._values]) for name in self._values[0]}
            self.parts.add(np.concatenate(self._rows), values)
        self._rows, self._values = [], []
        self._bytes, self._since = 0, time.monotonic()


class EmbedProgress(Callback):
    """A bar over all cells, or plain lines where nobody watches; of the first process, which speaks for all.

    Parameters
    ----------
    done, total
        Cells embedded before, and cells in all.
    """

    def __init__(self, done: int, total: int) -> None:
        self._before, self._done, self._total = done, done, total
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._console = Console()
        self._started = self._shown = 0.0

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._started = self._shown = time.monotonic()
        if trainer.is_global_zero and self._console.is_terminal and not self._console.is_dumb_terminal:
            columns = (
                TextColumn("Embedding"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("cells, {task.fields[rate]}"),
            )
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console)
            self._task = self._bar.add_task("", total=self._total, completed=self._done, rate="")
            self._bar.start()

    def on_predict_batch_end(  # noqa: D102
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if not trainer.is_global_zero:
            return
        self._done = min(self._total, self._done + batch.num_cells * trainer.world_size)
        now = time.monotonic()
        per_second = (self._done - self._before) / max(now - self._started, 1e-9)
        rate = f"{per_second:,.0f} cells/s" if per_second >= 10 else f"{per_second:.1f} cells/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, rate=rate)
        elif now - self._shown >= PLAIN_SECONDS:
            self._shown = now
            left = (self._total - self._done) / max(per_second, 1e-9)
            line = f"Embedding {self._done:,}/{self._total:,} cells, {rate}, {left:,.0f} s left"
            self._console.print(line, highlight=False, soft_wrap=True)

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: D102
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
