"""Fine-tuning on the cells of one file, which goes on where it was interrupted when the same command is given again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from cellfm_torch.commands.interrupt import StopSignals
from cellfm_torch.commands.outputs import beside
from cellfm_torch.commands.run_folder import RunFolder, resolved
from cellfm_torch.commands.training import fit, make_trainer
from cellfm_torch.data.fingerprint import checksum
from cellfm_torch.embedding.record import weights_of
from cellfm_torch.model.loading import load_model

# What the weights do not depend on.
FREE = ("baselines", "callbacks.guard", "callbacks.progress", "data.verbose", "label", "output", "run_dir", "scorer")


class FineTuning:
    """One fine-tuning, checked before any work. Until it is removed, a folder holds how far it is.

    Parameters
    ----------
    cfg
        As conf/integrate.yaml has it.
    cells, output
        The file that is read, and the one that will be written: the folder lies beside it as ``STEM.training``.

    Raises
    ------
    UserError
        If the options make no training, or the folder holds another one.
    """

    def __init__(self, cfg: DictConfig, cells: Path, output: Path) -> None:
        path = beside(output, "training") if cfg.run_dir is None else Path(cfg.run_dir).expanduser()
        instead = "give the options of that run to go on with it, or remove the folder to begin again"
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        self.task = instantiate(cfg.task, _partial_=True)(load_model(cfg.model_folder), recipe=instantiate(cfg.optim))
        made_of = {"cells": checksum(cells)[:16], "model": weights_of(Path(cfg.model_folder).expanduser())[:16]}
        cfg = OmegaConf.merge(cfg, {"run_dir": str(path)})  # type: ignore[assignment]
        self._cfg = OmegaConf.create(resolved(cfg) | {"sha256": made_of})
        self._folder = RunFolder(path, free=FREE, instead=instead)
        self._folder.check(self._cfg, resume=True)

    def run(self, adata: Any, console: Any) -> str:
        """Train the network on an AnnData; returns a few words about the losses.

        Raises
        ------
        Stopped
            If a signal came; all steps are saved.
        """
        cfg, task = self._cfg, self.task
        data = instantiate(cfg.data, _partial_=True)(path=adata, input_spec=task.network.input_spec)
        data.setup("fit")
        with StopSignals() as signals:
            trainer = make_trainer(cfg, self._folder, signals)
            before = trainer.validate(task, datamodule=data, verbose=False)[0]["val_loss"]
            if self._folder.checkpoint.is_file():
                console.print(f"going on with what {self._folder.path} holds", highlight=False, soft_wrap=True)
            fit(trainer, task, data, cfg=cfg, folder=self._folder)
            after = trainer.validate(task, datamodule=data, verbose=False)[0]["val_loss"]
        return f"held-out loss {before:.4f} before, {after:.4f} after {trainer.global_step:,} steps"

    def remove(self) -> None:
        """Remove the folder: all that comes of the training is written."""
        self._folder.remove()
