"""A small task trained by Lightning without a word: a job may have hundreds of them."""

from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping

from cellfm_torch.quiet import quiet_lightning


def fit_quietly(
    task: pl.LightningModule,
    train: Any,
    validation: Any = None,
    *,
    seed: int,
    patience: int | None = None,
    **options: Any,
) -> int:
    """Train in place; the random numbers of the caller stay as they are.

    Parameters
    ----------
    task
        Ends on the CPU.
    train, validation
        What yields batches; nothing else is seen.
    seed
        Of dropout.
    patience
        Epochs without a smaller ``val_loss``, which the task logs, after which it stops; None: only ``max_epochs`` do.
    options
        Of Lightning's Trainer.

    Returns
    -------
    int
        Epochs done.
    """
    from lightning.fabric.utilities.warnings import PossibleUserWarning

    callbacks: list[pl.Callback] = []
    if patience is not None:
        callbacks.append(EarlyStopping("val_loss", patience=patience, check_finite=True))
    with quiet_lightning(), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings("ignore", message=".*(LeafSpec|GPU available|treespec).*")
        torch.manual_seed(seed)
        trainer = pl.Trainer(
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **{"accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0, **options},
        )
        try:
            trainer.fit(task, train, validation)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
    task.cpu()
    return int(trainer.current_epoch)
