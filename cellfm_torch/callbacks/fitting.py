"""A Trainer for a task that learns from cells in memory, and what it logged."""

from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
import pandas as pd
from lightning.pytorch.callbacks import Callback

from cellfm_torch.callbacks.progress import RunProgress


class EpochHistory(Callback):
    """Keep what was logged at the end of each epoch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Add a row."""
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append({"epoch": float(trainer.current_epoch), **logged})

    @property
    def frame(self) -> pd.DataFrame:
        """One row per epoch, indexed by its number from 0."""
        if not self.rows:
            return pd.DataFrame(index=pd.Index([], name="epoch"))
        return pd.DataFrame(self.rows).astype({"epoch": int}).set_index("epoch")


def fit_in_memory(task: pl.LightningModule, data: Any, **trainer_options: Any) -> tuple[Any, pd.DataFrame]:
    """Train a task, with progress but without checkpoints or loggers.

    Parameters
    ----------
    task
        Trained in place; it ends on the device that it was trained on, in evaluation mode.
    data
        A LightningDataModule.
    trainer_options
        Of Lightning's Trainer; ``callbacks`` are added to those of progress and history.

    Returns
    -------
    The task, and one row per epoch.
    """
    history = EpochHistory()
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        **trainer_options,
    }
    more = options.pop("callbacks", None) or []
    more = list(more) if isinstance(more, list | tuple) else [more]
    bar = [RunProgress()] if options.get("enable_progress_bar", True) else []
    with warnings.catch_warnings():  # of what is wanted: a frozen backbone is in evaluation mode
        warnings.filterwarnings("ignore", message=r"Found .* module\(s\) in eval mode")
        warnings.filterwarnings("ignore", message=r".*does not have many workers")
        trainer = pl.Trainer(callbacks=[*bar, history, *more], **options)
        trainer.fit(task, datamodule=data)
    # Lightning takes a trained module back to the CPU; there is more to ask it.
    return task.to(trainer.strategy.root_device).eval(), history.frame
