"""Throughput: cells and tokens per second of training."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch import Tensor

from cellfm_torch.errors import UserError


def _first_tensor(batch: Any) -> Tensor | None:
    """Return the first tensor in a nest of lists, tuples and mappings."""
    if isinstance(batch, Tensor):
        return batch
    inside = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((found for item in inside if (found := _first_tensor(item)) is not None), None)


class Throughput(Callback):
    """Log ``cells_per_second`` and ``tokens_per_second`` at every training step.

    A moving mean over the last batches, waiting for data included; validation, checkpoints and whatever runs between
    epochs are left out. With several processes: this one's rate times their number.

    Parameters
    ----------
    window
        Training batches to average over.

    Raises
    ------
    UserError
        If that is none.

    Attributes
    ----------
    cells_per_second, tokens_per_second : float or None
        Latest values, 1/s. Cells are ``batch.num_cells``, or the length of the batch's first tensor; tokens are
        ``batch.num_genes``, and None for batches that have none.
    """

    def __init__(self, window: int = 20) -> None:
        if window < 1:
            raise UserError(f"Throughput: window must be 1 batch or more, got {window}")
        self.window = window
        self.cells_per_second: float | None = None
        self.tokens_per_second: float | None = None
        self._recent: deque[tuple[float, int, int]] = deque(maxlen=window)
        self._since: float | None = None  # the moment up to which time is accounted for; None: the clock stands

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._recent.clear()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._since = time.perf_counter()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: D102
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: D102
        now = time.perf_counter()
        if (cells := getattr(batch, "num_cells", None)) is None:
            tensor = _first_tensor(batch)
            cells = len(tensor) if tensor is not None and tensor.ndim else 0
        seconds = 0.0 if self._since is None else now - self._since
        self._recent.append((seconds, cells, getattr(batch, "num_genes", 0)))
        self._since = now
        seconds, total_cells, tokens = map(sum, zip(*self._recent, strict=True))
        scale = trainer.world_size / max(seconds, 1e-9)
        self.cells_per_second = total_cells * scale
        self.tokens_per_second = tokens * scale if tokens else None
        for name in ("cells_per_second", "tokens_per_second"):
            if (rate := getattr(self, name)) is not None:
                pl_module.log(name, rate, on_step=True, on_epoch=False, batch_size=max(cells, 1))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._since = None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._since = None

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: D102
        # No hook tells when the file is written, so the clock stands until the next batch starts.
        self._since = None
