"""What every data module of ragged batches has: a token budget that may be left open, and copies to the device."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
from lightning.pytorch import LightningDataModule

from cellfm_torch.batch import CellBatch
from cellfm_torch.errors import UserError

Loader = TypeVar("Loader")


class TokenBudgetDataModule(LightningDataModule):
    """Base of data modules whose batches hold at most so many gene tokens.

    Parameters
    ----------
    token_budget
        Most gene tokens per batch and device. ``"auto"``: left open, for
        :class:`~cellfm_torch.callbacks.memory.TokenBudgetFinder` to find the largest that fits.

    Attributes
    ----------
    token_budget : int or None
        None as long as it is open: batches are then small. What was found travels in checkpoints,
        so that a resumed run makes the same batches.

    Raises
    ------
    UserError
        If it is not a positive number.
    """

    def __init__(self, token_budget: int | Literal["auto"]) -> None:
        super().__init__()
        if token_budget != "auto" and (not isinstance(token_budget, int) or token_budget < 1):
            raise UserError(f"data.token_budget={token_budget}: must be at least 1, or auto")
        self._find_budget = token_budget == "auto"
        self.token_budget = None if token_budget == "auto" else token_budget
        self._place: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the budget, where it was left open, and the place in the training cells."""
        state: dict[str, Any] = {"token_budget": self.token_budget} if self._find_budget else {}
        loader: Any = self.trainer.train_dataloader if self.trainer else None
        return state | ({"place": loader.state_dict()} if hasattr(loader, "state_dict") else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the budget and the place of the run that is resumed."""
        if self._find_budget:
            self.token_budget = state_dict["token_budget"]
        self._place = state_dict.get("place")

    def in_place(self, loader: Loader) -> Loader:
        """Return a loader of training cells, in the place where a run that is resumed was left.

        Lightning itself puts it there only where nothing has asked how many steps there will be, as the schedules of
        learning rates do for a number of epochs.
        """
        if self._place is not None:
            loader.load_state_dict(self._place)  # type: ignore[attr-defined]
            self._place = None
        return loader

    def transfer_batch_to_device(self, batch: CellBatch, device: torch.device, dataloader_idx: int) -> CellBatch:
        """Copy a batch while the device computes; the loader pins its memory where there is such a device."""
        return batch.to(device, non_blocking=device.type == "cuda")
