"""A LightningModule that is nothing of ours, its data and trainers, for the tests of the callbacks."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

CELLS, GENES = 40, 6
PACKAGES = ["lightning.pytorch", "pytorch_lightning"]


def foreign(package: str = "lightning.pytorch") -> Any:
    """Make a plain MLP in a LightningModule of the named package."""
    base: Any = importlib.import_module(package).LightningModule

    class Foreign(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(nn.Linear(GENES, 8), nn.Dropout(0.5), nn.Linear(8, 4))
            self.head = nn.Linear(4, 1)
            self.modes: list[tuple[int, bool]] = []

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x)

        def loss(self, batch: Any) -> Tensor:
            return nn.functional.mse_loss(self.head(self(batch[0])), batch[1])

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.modes.append((self.current_epoch, self.network[1].training))
            loss = self.loss(batch)
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch))

        def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self(batch[0])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=0.1)

    torch.manual_seed(0)
    return Foreign()


def cells() -> TensorDataset:
    """Make the data: x (CELLS, GENES) and y (CELLS, 1)."""
    rng = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(CELLS, GENES, generator=rng), torch.randn(CELLS, 1, generator=rng))


def loader(**options: Any) -> DataLoader[Any]:
    """Make a loader of five batches."""
    return DataLoader(cells(), batch_size=8, **options)


def trainer(folder: Path, callbacks: list[Any], package: str = "lightning.pytorch", **options: Any) -> Any:
    """Make a quiet CPU trainer of the named package."""
    pl = importlib.import_module(package)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    options = {"logger": False, "max_epochs": 2, **quiet, **options}
    return pl.Trainer(accelerator="cpu", default_root_dir=folder, callbacks=callbacks, **options)


def saver(folder: Path, step: int) -> Any:
    """Make a callback that saves one checkpoint, after this training step, to its `best_model_path`."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Once(ModelCheckpoint):
        def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
            if trainer.global_step == step:
                super().on_train_batch_end(trainer, *args, **kwargs)

    return Once(folder, every_n_train_steps=step)
