"""Where to compute."""

from __future__ import annotations

import torch

from cellfm_torch.errors import UserError, nearest

ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")


def chosen_device(accelerator: str) -> torch.device:
    """Return the device that an option means: ``"auto"`` takes a GPU where there is one.

    Raises
    ------
    UserError
        If there is no such device.
    """
    if accelerator not in ACCELERATORS:
        choices = ", ".join(ACCELERATORS)
        raise UserError(f"accelerator={accelerator}: choose {choices}{nearest(str(accelerator), ACCELERATORS)}")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return torch.device(next(name for name in ("cuda", "cpu") if there[name]))
    name = "cuda" if accelerator == "gpu" else accelerator
    if not there[name]:
        raise UserError(f"accelerator={accelerator}: there is none on this machine that torch can use")
    return torch.device(name)
