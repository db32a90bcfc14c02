"""The weights of the smallest validation loss, kept in memory while a small task is trained."""

from __future__ import annotations

import lightning.pytorch as pl
from torch import Tensor


class KeepsBest(pl.LightningModule):
    """A task that ends with the weights that trained best; those without gradients are left alone."""

    best: dict[str, Tensor] | None = None
    """Trained weights at the smallest validation loss so far."""

    best_loss = float("inf")

    best_epochs: int | None = None
    """After how many epochs that was; 0: before training."""

    def keep_if_best(self, loss: float) -> None:
        """Keep the weights if no validation loss was smaller."""
        if loss < self.best_loss:
            self.best_loss = loss
            self.best_epochs = 0 if self.trainer.sanity_checking else self.trainer.current_epoch + 1
            self.best = {name: p.detach().clone() for name, p in self.named_parameters() if p.requires_grad}

    def on_fit_end(self) -> None:
        """Go back to the best weights."""
        if self.best is not None:
            self.load_state_dict(self.best, strict=False)
