"""A training that can be interrupted: it goes on from the checkpoint in its folder, to the same weights."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

from cellfm_torch.commands.interrupt import RandomState, SaveOnStop, StopSignals
from cellfm_torch.commands.run_folder import RunFolder
from cellfm_torch.distributed.progress import OtherProcesses
from cellfm_torch.distributed.sound import damage, kept, newest_sound
from cellfm_torch.errors import UserError
from cellfm_torch.processes import rank


def chosen(group: DictConfig) -> list[Any]:
    """Build the members of a group by name, such as callbacks; one that was set to null is left out."""
    return [member for member in instantiate(group).values() if member is not None]


def make_trainer(cfg: DictConfig, folder: RunFolder, signals: StopSignals, *, logger: Any = False) -> pl.Trainer:
    """Return the Trainer of a configuration, with its callbacks and those that make a run resumable.

    Parameters
    ----------
    cfg
        Has ``trainer`` and ``callbacks``; one of the latter writes ``folder.checkpoint`` now and then.
    folder
        Where the checkpoint goes when a signal comes.
    signals
        Where signals arrive.
    logger
        As the Trainer takes it.
    """
    callbacks = [*chosen(cfg.callbacks), RandomState(), OtherProcesses(), SaveOnStop(signals, folder.checkpoint)]
    trainer: pl.Trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=logger)
    return trainer


def _warn(line: str) -> None:
    if not rank():
        print(f"warning: {line}", file=sys.stderr, flush=True)


def fit(trainer: pl.Trainer, task: pl.LightningModule, data: Any, *, cfg: DictConfig, folder: RunFolder) -> None:
    """Train from the checkpoint in the folder where there is one, else from the start, and keep the last state.

    Raises
    ------
    Stopped
        If a signal came; all steps are saved.
    UserError
        For mistakes that show only when training is about to start; the folder is as it was then.
    """
    folder.create(cfg)
    # Of a sharded one the strategy compares the checksums: its processes know each other, and share the work.
    checkpoint = newest_sound(kept(folder.checkpoint), _warn, wrong_with=partial(damage, parts=slice(0)))
    try:
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except UserError:
        if trainer.global_step == 0:
            folder.withdraw()
        raise
    trainer.save_checkpoint(folder.checkpoint)
