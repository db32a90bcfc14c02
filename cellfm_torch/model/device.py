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


def device_named(name: str) -> torch.device:
    """Return a device by torch's name, such as ``"cuda"`` or ``"cuda:1"``.

    Raises
    ------
    UserError
        If there is no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name}: give cpu, cuda, cuda:1 or mps{nearest(name, ACCELERATORS[1:])}") from None
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there.get(device.type, 0):
        raise UserError(f"device={name}: there is none on this machine that torch can use")
    return device
