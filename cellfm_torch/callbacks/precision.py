"""A callback that says how precisely the device multiplies."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from cellfm_torch.errors import UserError, nearest


class MatmulPrecision(Callback):
    """Set how precisely a CUDA device multiplies float32 matrices, for the time of the run; elsewhere nothing changes.

    Parameters
    ----------
    precision
        ``"highest"``: float32. ``"high"``: TF32, 10 bits of mantissa, several times faster. ``"medium"``: bfloat16, 7
        bits. Products that autocast takes in half precision are not concerned.

    Raises
    ------
    UserError
        For another word.
    """

    CHOICES = ("highest", "high", "medium")

    def __init__(self, precision: str = "highest") -> None:
        if precision not in self.CHOICES:
            raise UserError(
                f"callbacks.matmul_precision.precision={precision}: choose {', '.join(self.CHOICES)}"
                f"{nearest(str(precision), self.CHOICES)}"
            )
        self.precision = precision
        self._before: str | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Set it."""
        if trainer.strategy.root_device.type == "cuda" and self._before is None:
            self._before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(self.precision)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Set it back."""
        if self._before is not None:
            torch.set_float32_matmul_precision(self._before)
            self._before = None
